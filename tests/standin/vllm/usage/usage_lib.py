"""Stand-in for `vllm.usage.usage_lib`."""

from enum import Enum


class UsageContext(Enum):
    """Who makes an engine."""

    OPENAI_API_SERVER = "OPENAI_API_SERVER"
