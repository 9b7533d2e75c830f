"""What an inventory may say: the words, and the refusal of everything else."""

from vllm_ansible.schema.check import Checked, check_host
from vllm_ansible.schema.problems import Problem, masked
from vllm_ansible.schema.site import SiteWords, check_site
from vllm_ansible.schema.words import Engine, Gateway, Instance, Mirror, Sources, Words

__all__ = [
    "Checked",
    "Engine",
    "Gateway",
    "Instance",
    "Mirror",
    "Problem",
    "SiteWords",
    "Sources",
    "Words",
    "check_host",
    "check_site",
    "masked",
]
