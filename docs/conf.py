"""How Sphinx builds the site; the pages that are made while it does are written by ``kdengine_docs``."""

import sys
from pathlib import Path

from kdengine import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "kdengine"
author = "kdengine contributors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "kdengine_docs.site",
]
exclude_patterns = ["_build", "kdengine_docs"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # as GitHub makes them, so that links with # work in both places
highlight_language = "none"  # of indented blocks: commands and formulas
# a README of somebody else may skip a level of headings or name a language that pygments does not know
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88  # longer ones have a line for each argument
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # as fields of a class, which its own attributes then do not repeat
# Only what stands on these pages can be linked to. Types of other libraries, and those of kdengine that are no part of its
# interface, are named without a link; everything else that is not found is a warning, and warnings are errors.
nitpick_ignore_regex = [("py:.*", r"(?!kdengine\.).*"), ("py:.*", r"kdengine\.\w+\..*")]

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = f"kdengine {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/kdengine/kdengine/",
    "source_branch": "main",
    "source_directory": "docs/",
}
