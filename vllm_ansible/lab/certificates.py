"""The certificate authorities that this computer trusts, for its machines."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # SUSE
)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def host_bundle() -> Path | None:
    """Return this computer's CA bundle; None when it has none."""
    return next((path for path in _BUNDLES if path.is_file()), None)


def extra_certificates(image_root: Path) -> dict[str, str]:
    """Find what this computer trusts and an image does not.

    A site's own authority, or a proxy's, is in no Debian package; without it neither apt nor pip
    works in a machine.

    Args:
        image_root: Root of the image.

    Returns:
        File name to certificate (PEM), for ``/usr/local/share/ca-certificates``, from where
        update-ca-certificates takes them into each later bundle.
    """
    bundle = host_bundle()
    if bundle is None:
        return {}
    known = set(_certificates(image_root / "etc/ssl/certs/ca-certificates.crt"))
    extra = [text for text in _certificates(bundle) if text not in known]
    return {
        f"vllm-lab-{hashlib.sha256(text.encode()).hexdigest()[:12]}.crt": text + "\n"
        for text in extra
    }


def _certificates(bundle: Path) -> list[str]:
    if not bundle.is_file():
        return []
    return _PEM.findall(bundle.read_text(encoding="utf-8", errors="replace"))
