"""What a host's own apt asks, and whom the operator has told it to ask through."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.vllm_errors import HostError
from ansible.module_utils.vllm_process import run

# What a mirror's configuration can name: no password, nothing that has to be escaped.
PLAIN = re.compile(r"http://[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9._+~-]+)*")
SETTINGS = re.MULTILINE | re.IGNORECASE
PROXY = re.compile(r'^Acquire::http::Proxy(?:::([^:" ]+))? "[^"]+";$', SETTINGS)
DETECTED = re.compile(r'^Acquire::http::Proxy-?Auto-?Detect "[^"]+";$', SETTINGS)
# A release's list, as apt prints it: below dists/, or beside the packages in a flat archive.
RELEASE = re.compile(r"'(.+?)(?:/dists/(?!.*/dists/).+|/\.)/InRelease' ")
PASSWORDS = ("/etc/apt/auth.conf", "/etc/apt/auth.conf.d")


def archives(environment_proxy: str | None, passwords: tuple[str, ...] = PASSWORDS) -> list[str]:
    """Return the addresses of the archives that apt asks by plain HTTP and by itself.

    Left out are all of https and of other ways, the hosts for which the operator has configured a
    proxy (or DIRECT), a password or https as well, and everything where a proxy is for all hosts.

    Args:
        environment_proxy: the variable `http_proxy` as apt will find it.
        passwords: files and directories of files in which apt finds passwords.
    """
    if environment_proxy or shutil.which("apt-get") is None:
        return []
    try:
        settings = run(["apt-config", "dump"], timeout=10).output
        # Asks nobody, and needs no lists, which a new host does not have.
        text = run(["apt-get", "--print-uris", "update"], timeout=30).output
    except HostError:
        return []
    proxied = {match.group(1) for match in PROXY.finditer(settings)}
    if None in proxied or DETECTED.search(settings):
        return []
    own = {host.lower() for host in proxied if host} | hosts_with_passwords(passwords)
    found = set()
    for line in text.splitlines():
        match = RELEASE.match(line)
        archive = match.group(1).rstrip("/") if match else ""
        if PLAIN.fullmatch(archive):
            found.add(archive)
        elif "/InRelease' " in line:
            own.add(urlsplit(line.split("'")[1]).hostname or "")
    return sorted(one for one in found if urlsplit(one).hostname not in own)


def hosts_with_passwords(places: tuple[str, ...]) -> set[str]:
    """Return the hosts that apt's files of passwords name; apt.conf(5), apt_auth.conf(5)."""
    found: set[str] = set()
    for place in map(Path, places):
        files = sorted(place.glob("*.conf")) if place.is_dir() else [place]
        for file in files:
            try:
                text = file.read_text("utf-8", errors="replace")
            except OSError:
                continue
            named = re.findall(r"\bmachine\s+(?:https?://)?([^\s/:]+)", text)
            found |= {host.lower() for host in named}
    return found
