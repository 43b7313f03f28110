"""Configuration of the documentation: `make docs` builds it, offline, and warnings are errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import semantoks

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# Examples are run by their own process, on the recordings of this clone.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "semantoks"
author = "The semantoks developers"
project_copyright = f"2026, {author}"
release = version = semantoks.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "pictures",
]
exclude_patterns = ["gallery/*"]
default_role = "py:obj"
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections state types in words
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "tutorials",
    "image_scrapers": ("gallery_figures.scrape",),
    "filename_pattern": r"/\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "default_thumb_file": str(HERE / "_static" / "logo.svg"),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 1e9,
}

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["semantoks.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_title = "semantoks"
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "semantoks"},
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "install": [], "method": []}

# Links of pages that are also read in the repository, outside the documentation's folder.
_ELSEWHERE = {
    "](../src/semantoks/weights/connectome-base/README.md)": "](connectome-base.md)",
    "](../CONTRIBUTING.md)": "](contributing.md)",
    "](docs/": "](",
}


def _link_inside(_app: object, _name: str, source: list[str]) -> None:
    for there, here in _ELSEWHERE.items():
        source[0] = source[0].replace(there, here)


def setup(app):
    app.connect("source-read", _link_inside)
    app.connect("include-read", lambda app, _path, _parent, source: _link_inside(app, "", source))
