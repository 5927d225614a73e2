"""Configuration of the documentation site.

``sphinx-build -W --keep-going -b html docs docs/_build/html`` builds it. Neither the build
nor a reader of the pages needs the network.
"""

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
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "generated_pages",
    "mathml",
]
# Tables at the top of generated/ are included in other pages.
exclude_patterns = ["_build", "_ext", "generated/*.md"]

html_theme = "furo"
html_title = f"optenv {version}"
html_math_renderer = "mathml"
html_show_sphinx = False

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
# Other links are to pages, headings and files, which Sphinx checks.
myst_url_schemes = ("http", "https")

# Frameworks, which the pages on them need not have installed.
autodoc_mock_imports = ["lightning", "transformers"]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Several arguments may share a description, as in "params, grad: ``[B, P]``".
napoleon_use_param = False
napoleon_use_rtype = False

# The copy button leaves out prompts and what a program prints.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
