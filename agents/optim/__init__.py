"""The exported optimizer (``LearnedOptimizer``), and the scheduler (``LearnedLR``) that
drives another torch optimizer.
"""
