"""The lab: real systemd machines on this computer, made and removed without a trace."""

from __future__ import annotations

from vllm_ansible.lab.errors import LabError, LabWordsError, PreflightError
from vllm_ansible.lab.operate import down, purge, status, up
from vllm_ansible.lab.report import LabReport, MachineReport
from vllm_ansible.lab.spec import WORDS, LabSpec, MachineSpec, misspelt

__all__ = [
    "WORDS",
    "LabError",
    "LabReport",
    "LabSpec",
    "LabWordsError",
    "MachineReport",
    "MachineSpec",
    "PreflightError",
    "down",
    "misspelt",
    "purge",
    "status",
    "up",
]
