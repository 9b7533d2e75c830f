"""Images are shared when they are the same, and never used half-built."""

import pytest

from vllm_ansible.lab import LabError, LabSpec, certificates, image

WORDS = {"lab_name": "unittest", "lab_subnet": "10.97.56.0/24"}


def quiet(text):
    """Progress that nobody reads."""


def wanted(**words):
    spec = LabSpec.from_vars({"one": {**WORDS, "lab_address": "10.97.56.11", **words}})
    return image.Image.of(spec, spec.machines[0])


@pytest.fixture
def images(monkeypatch, tmp_path):
    monkeypatch.setattr(image, "IMAGES", tmp_path / "images")
    monkeypatch.setattr("os.sync", lambda: None)
    return tmp_path / "images"


def test_the_same_words_give_the_same_image_in_any_order():
    assert wanted(lab_packages=["a1", "b1"]).name == wanted(lab_packages=["b1", "a1"]).name


@pytest.mark.parametrize(
    "words", [{"lab_suite": "trixie"}, {"lab_packages": ["nginx"]}, {"lab_pip": ["giftless==1"]}]
)
def test_what_an_image_is_made_of_is_in_its_name(words):
    assert wanted(**words).name != wanted().name


def test_an_image_is_built_once(images, monkeypatch):
    built = []

    def bootstrap(one, root):
        built.append(one)
        root.mkdir()

    monkeypatch.setattr(image, "_bootstrap", bootstrap)
    assert image.ensure(wanted(), quiet)
    assert not image.ensure(wanted(), quiet)
    assert len(built) == 1
    assert image.exists(wanted().name)


def test_a_failed_build_leaves_nothing_that_could_be_used(images, monkeypatch):
    def bootstrap(one, root):
        root.mkdir()
        (root / "half").write_text("")
        raise LabError("no network")

    monkeypatch.setattr(image, "_bootstrap", bootstrap)
    with pytest.raises(LabError, match="no network"):
        image.ensure(wanted(), quiet)
    assert not image.exists(wanted().name)
    assert list(images.iterdir()) == []


def test_what_a_killed_build_left_is_cleared_away(images, monkeypatch):
    (images / ".build-bookworm-000000000000" / "root").mkdir(parents=True)
    monkeypatch.setattr(image, "_bootstrap", lambda _one, root: root.mkdir())
    image.ensure(wanted(), quiet)
    assert [path.name for path in images.iterdir()] == [wanted().name]


def test_only_authorities_that_the_image_lacks_are_added(monkeypatch, tmp_path):
    pem = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n".format
    bundle = tmp_path / "host.crt"
    bundle.write_text("# comment\n" + pem("public") + pem("of the site"))
    inside = tmp_path / "root/etc/ssl/certs/ca-certificates.crt"
    inside.parent.mkdir(parents=True)
    inside.write_text(pem("public"))
    monkeypatch.setattr(certificates, "_BUNDLES", (tmp_path / "none", bundle))
    assert list(certificates.extra_certificates(tmp_path / "root").values()) == [pem("of the site")]
