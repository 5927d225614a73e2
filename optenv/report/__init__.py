"""Reports of recorded runs: ``python -m optenv.report --help``.

The modules are ``runs`` (the runs of a recording), ``figure``, ``tables`` and ``style``
(the style of all figures of the project).
"""
