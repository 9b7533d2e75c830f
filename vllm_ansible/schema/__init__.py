"""What an inventory may say: the words, and the refusal of everything else."""

from vllm_ansible.schema.check import Checked, check_host, check_webui
from vllm_ansible.schema.problems import Problem, masked
from vllm_ansible.schema.site import SiteWords, check_site
from vllm_ansible.schema.webui import Door, Server, find_doors
from vllm_ansible.schema.words import Engine, Gateway, Instance, Mirror, Sources, Webui, Words

__all__ = [
    "Checked",
    "Door",
    "Engine",
    "Gateway",
    "Instance",
    "Mirror",
    "Problem",
    "Server",
    "SiteWords",
    "Sources",
    "Webui",
    "Words",
    "check_host",
    "check_site",
    "check_webui",
    "find_doors",
    "masked",
]
