"""What a download says of this host's disk."""

import errno

import pytest

from tests.unit.modules.conftest import ROOT, load


def test_a_full_disk_is_known_by_its_number_whoever_notices_it(monkeypatch):
    artifact = load(ROOT / "library/fetch_artifact.py", monkeypatch)
    with pytest.raises(artifact.PlaceError) as caught, artifact.here():
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/x")
    assert caught.value.errno == errno.ENOSPC
    assert "/srv/x" in str(caught.value)
