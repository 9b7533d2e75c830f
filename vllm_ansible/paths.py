"""Where the project's own files are."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "group_vars" / "all"
LOCKS = PROJECT / "vllm_ansible" / "locks"
CACHE = PROJECT / ".cache"
