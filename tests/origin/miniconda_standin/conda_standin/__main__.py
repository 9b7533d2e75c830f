"""``python -m conda_standin``."""

from .cli import run

run()
