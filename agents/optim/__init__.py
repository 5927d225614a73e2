"""Optimizer (``LearnedOptimizer``) and scheduler for any torch optimizer (``LearnedLR``),
both driven by a learned policy.
"""
