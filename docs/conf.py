"""Configuration of the documentation site: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

import optenv  # noqa: E402

project = "optenv"
author = "The optenv developers"
copyright = f"2026, {author}"
version = release = optenv.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "generated_pages",
]
html_theme = "furo"
html_title = f"optenv {version}"
# Tables at the top of generated/ are included in other pages.
exclude_patterns = ["_build", "_ext", "generated/*.md"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
# Cross-references are Sphinx's own, to headings of other pages and to objects of the API.
myst_url_schemes = ("http", "https")

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
# Arguments are described by several names at once, as in "params, grad: [B, P]".
nitpicky = False
