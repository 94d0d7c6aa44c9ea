"""The documentation site: `make docs` builds it, without a network.

The source folder is that of the repository, so that a link between two pages is the same file on GitHub and here.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that the notebook doesn't wait for cores that others use

from mossformer_sb.version import __version__  # noqa: E402

project = "mossformer_sb"
author = copyright = "The mossformer_sb contributors"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "*/README.md", "mossformer_sb/pretrained/*/README.md"]
# The folders are not searched either, which would take longer than the build.
exclude_patterns = ["docs/_*", ".*", "results", "build", "dist", "tests", "benchmarks", "*.egg-info"]

# ---- pages
myst_heading_anchors = 4  # the anchors that GitHub makes
# The notebook runs at the first build, and again when it has changed.
nb_execution_mode = "cache"
nb_execution_timeout = -1  # none: machines differ
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of other packages
nb_execution_show_tb = True

# ---- docstrings, of the modules in docs/api.md
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "py:obj"  # a link where the name is documented, and code elsewhere
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False

# ---- HTML
html_theme = "furo"
html_title = f"mossformer_sb {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # index.html, which leads to docs/index.html
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
