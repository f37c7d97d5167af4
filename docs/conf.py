"""The documentation as a site: make docs.

The pages are plain Markdown and can be read as they are. What is done to them on the way to the site is in
`site_pages.py`: links to figures become figures, the lists of links in `index.md` become the navigation, and links to
files of the repository outside this folder become downloads. Figures are drawn by `docs/figures` during the build;
`-D draw_figures=0` leaves them out. Nothing is fetched from anywhere.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # site_pages, figures

project = "advect"
author = "The advect authors"
copyright = "the advect authors, Apache-2.0"
extensions = ["myst_parser", "site_pages"]
root_doc = "index"
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
language = "en"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]
highlight_language = "none"  # indented blocks are formulas and diagrams

html_theme = "furo"
html_title = "advect"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00588c", "color-brand-content": "#00588c"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ee", "color-brand-content": "#7cc0ee"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
