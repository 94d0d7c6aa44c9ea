"""``python -m mossformer_sb``, the same as ``mossformer-sb``."""

import sys

from mossformer_sb.cli import main

sys.exit(main())
