"""The trial of an engine: hosts run it as a module's part, the benchmark on this computer."""

import ansible.module_utils

from vllm_ansible.paths import PROJECT

# What Ansible does when it sends a module to a host.
if str(PROJECT / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_trial import Cell, Engine, load

__all__ = ["Cell", "Engine", "HostError", "load"]
