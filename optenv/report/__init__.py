"""Reports of recorded runs: ``python -m optenv.report --help``.

The modules are ``runs`` (what a recording holds, run by run), ``figure``, ``tables`` and
``style`` (of all the project's figures).
"""
