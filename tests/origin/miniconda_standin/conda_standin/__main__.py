"""``python -m conda_standin``."""

import sys

from conda_standin.cli import main

sys.exit(main())
