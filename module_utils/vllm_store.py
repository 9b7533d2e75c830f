"""The lists in a mirror's store: pages of package indexes and channels' repodata, united."""

from __future__ import annotations

import json
import re

from ansible.module_utils.vllm_files import as_json

PAGE = re.compile(r"store/pypi/[^/]+/simple/(?:[^/]+/)?index\.html")
REPODATA = re.compile(r"store/conda/[^/]+/[^/]+/(?:current_)?repodata\.json")
ANCHOR = re.compile(rb'<a href="([^"]*)">[^\n]*</a><br>')


def is_united(name: str) -> bool:
    """Tell whether a file of the store is a list that several bundles fill."""
    return bool(PAGE.fullmatch(name) or REPODATA.fullmatch(name))


def unite(name: str, there: bytes, ours: bytes, *, newer: bool) -> bytes:
    """Return a list with the entries of both.

    Args:
        name: the file's path in the store.
        there: what the store has.
        ours: what the bundle has.
        newer: whether the store's is the newer one, and wins where both speak of one file.
    """
    first, second = (ours, there) if newer else (there, ours)
    return _pages(first, second) if PAGE.fullmatch(name) else _repodata(first, second)


def _pages(old: bytes, new: bytes) -> bytes:
    """Unite two pages of a simple index; the link to one file is that of the newer page."""
    links = {
        match.group(1).partition(b"#")[0]: match.group()
        for page in (old, new)
        for match in ANCHOR.finditer(page)
    }
    lines = [links[target] for target in sorted(links)]
    return b"\n".join([b"<!DOCTYPE html>", b"<html><body>", *lines, b"</body></html>", b""])


def _repodata(old: bytes, new: bytes) -> bytes:
    """Unite two channels' lists; what cannot be read gives way."""
    try:
        before, after = json.loads(old), json.loads(new)
        kinds = ("packages", "packages.conda")
        both = {kind: {**before.get(kind, {}), **after.get(kind, {})} for kind in kinds}
        text: str = as_json({**before, **after, **both})
        return text.encode()
    except (ValueError, AttributeError, TypeError):
        return new
