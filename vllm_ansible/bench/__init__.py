"""What a site costs: bytes from outside, compilations and seconds, for one server and several."""

from vllm_ansible.bench.report import Count, Run, SitesReport

__all__ = ["Count", "Run", "SitesReport"]
