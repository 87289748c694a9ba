"""``python -m unireplknet`` is the command line."""

import sys

from unireplknet.cli import main

sys.exit(main())
