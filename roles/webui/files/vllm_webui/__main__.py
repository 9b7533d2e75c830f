"""Starts the page: `python -m vllm_webui SETTINGS`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

# Before gradio is imported: nothing calls out, whatever the environment says.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
)
os.environ.setdefault("GRADIO_TEMP_DIR", "/tmp/vllm-webui")  # noqa: S108 - the unit gives its own

from vllm_webui.server import serve
from vllm_webui.settings import SettingsError, read_keys, read_logins, read_settings


def main() -> None:
    """Serve until stopped; status 78 (EX_CONFIG) where the settings are wrong."""
    parser = argparse.ArgumentParser(prog="vllm_webui", description=__doc__)
    parser.add_argument("settings", type=Path, help="file of settings, JSON")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Which server was asked, and when, is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    credentials = Path(folder) if folder else None
    try:
        settings = read_settings(given.settings)
        keys, logins = read_keys(settings, credentials), read_logins(settings, credentials)
    except SettingsError as error:
        sys.stderr.write(f"vllm_webui: {error}\n")
        sys.exit(78)
    asyncio.run(serve(settings, keys, logins))


if __name__ == "__main__":
    main()
