"""Where the project's own files are."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "group_vars" / "all"
LOCKS = Path(os.environ.get("VLLM_ANSIBLE_LOCKS", PROJECT / "vllm_ansible" / "locks"))
WEBUI = PROJECT / "roles" / "webui" / "files"
CACHE = Path(os.environ.get("VLLM_ANSIBLE_CACHE", PROJECT / ".cache"))
