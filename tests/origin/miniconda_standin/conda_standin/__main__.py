"""``python -m conda_standin``."""

import sys

from .cli import main

sys.exit(main())
