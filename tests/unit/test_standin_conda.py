"""The stand-in conda and its installer keep to what genuine conda 26 does.

What is expected here was compared with conda 26.1.0 from its source, run on the same channel.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.origin import miniconda
from tests.origin.miniconda_standin.conda_standin import bootstrap, cli, config, shell
from tests.origin.miniconda_standin.conda_standin.errors import (
    ConfigurationLoadError,
    EnvironmentNameNotFound,
)

HEADER = Path(miniconda.__file__).parent / "miniconda_standin" / "header.sh"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty installation and home; nothing of this machine's conda takes part."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("CONDARC", "CONDA_PREFIX", "CONDA_SHLVL", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "root" / "conda-meta").mkdir(parents=True)
    (tmp_path / "root" / "conda-meta" / "history").touch()
    monkeypatch.setattr(cli, "ROOT", tmp_path / "root")
    return tmp_path / "root"


def test_lists_join_and_maps_merge_with_the_nearer_file_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".condarc").write_text(
        "channels: [defaults]\ncustom_channels: {a: http://x, b: http://x}\nchannel_alias: http://x\n"
    )
    (tmp_path / "rc").write_text(
        "channels: [b]\ncustom_channels: {b: http://y}\nchannel_alias: http://y\n"
    )
    monkeypatch.setenv("CONDARC", str(tmp_path / "rc"))
    words = config.load(root).words
    assert words["channels"] == ["b", "defaults"]
    assert {"a": "http://x", "b": "http://y"}.items() <= words["custom_channels"].items()
    assert words["channel_alias"] == "http://y"


def test_channel_names_become_addresses(root: Path) -> None:
    (root / ".condarc").write_text(
        "default_channels: [http://o/pkgs/main]\ncustom_channels: {conda-forge: http://o/cloud}\n"
    )
    loaded = config.load(root)
    names = ["defaults", "conda-forge", "http://z/c/", "other"]
    assert loaded.channel_urls(names) == [
        "http://o/pkgs/main",
        "http://o/cloud/conda-forge",
        "http://z/c",
        "https://conda.anaconda.org/other",
    ]
    assert loaded.shown_name("http://o/pkgs/main") == "defaults"
    assert loaded.channel_name("http://o/pkgs/main") == "pkgs/main"
    assert loaded.channel_name("http://o/cloud/conda-forge") == "conda-forge"


def test_a_broken_condarc_is_named(root: Path) -> None:
    (root / ".condarc").write_text("channels: [\n")
    with pytest.raises(ConfigurationLoadError, match=r"\.condarc"):
        config.load(root)


def test_without_a_channel_nothing_is_installed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.main(["create", "--yes", "--quiet", "--prefix", str(tmp_path / "e"), "python"])
    assert status == 1
    assert "NoChannelsConfiguredError" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["update", "--all"],
        ["create", "--yes", "--copy", "--prefix", "/x", "python"],
        ["remove", "--yes", "--prefix", "/x", "numpy"],
        ["config", "--set", "channels", "x"],
        ["create", "--pref", "/x", "python"],
    ],
)
def test_what_is_not_in_the_contract_is_wrong_usage(root: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2


def test_errors_in_json_have_condas_words(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--json", "--prefix", "/nowhere"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["exception_name"] == "EnvironmentLocationNotFound"
    assert answer["error"] == "EnvironmentLocationNotFound: Not a conda environment: /nowhere"


def test_the_base_environment_is_never_removed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["remove", "--all", "--yes", "--prefix", str(root)]) == 1
    assert "cannot remove root environment" in capsys.readouterr().err
    assert root.is_dir()


def test_a_network_that_stays_down_ends_after_the_configured_tries(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / ".condarc").write_text("channels: ['http://127.0.0.1:9/x']\nremote_max_retries: 1\n")
    status = cli.main(["create", "--yes", "--quiet", "--prefix", str(tmp_path / "e"), "python"])
    assert status == 1
    assert "CondaHTTPError: HTTP 000 CONNECTION FAILED" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def _environment(path: Path) -> Path:
    (path / "conda-meta").mkdir(parents=True)
    (path / "conda-meta" / "history").touch()
    return path


def test_activate_and_deactivate_nest(root: Path) -> None:
    _environment(root / "envs" / "vllm")
    loaded = config.load(root)
    script = "\n".join(
        [
            shell.activate(loaded, {"PATH": "/usr/bin", "PS1": "$ "}, "base"),
            'echo "$CONDA_SHLVL $CONDA_PREFIX $PATH"',
        ]
    )
    first = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert first.stdout.split() == ["1", str(root), f"{root}/bin:/usr/bin"]
    inside = {
        "PATH": f"{root}/bin:/usr/bin",
        "CONDA_PREFIX": str(root),
        "CONDA_SHLVL": "1",
        "PS1": "(base) $ ",
        "CONDA_PROMPT_MODIFIER": "(base) ",
    }
    entered = shell.activate(loaded, inside, "vllm")
    assert f"export CONDA_PREFIX={root}/envs/vllm" in entered
    assert f"export PATH={root}/envs/vllm/bin:/usr/bin" in entered
    assert "PS1='(vllm) $ '" in entered
    deeper = {**inside, "CONDA_PREFIX": f"{root}/envs/vllm", "CONDA_SHLVL": "2"}
    deeper |= {"CONDA_PREFIX_1": str(root), "PATH": f"{root}/envs/vllm/bin:/usr/bin"}
    assert f"export PATH={root}/bin:/usr/bin" in shell.deactivate(loaded, deeper)


def test_an_environment_that_is_not_there_cannot_be_entered(root: Path) -> None:
    with pytest.raises(EnvironmentNameNotFound, match="none"):
        shell.activate(config.load(root), {"PATH": ""}, "none")


def test_init_writes_its_block_once(root: Path, tmp_path: Path) -> None:
    start = tmp_path / "home" / ".bashrc"
    start.write_text("alias a=b\n")
    loaded = config.load(root)
    assert shell.initialize(loaded, ["bash"])[0].startswith("modified")
    assert shell.initialize(loaded, ["bash"])[0].startswith("no change")
    assert start.read_text().count("# >>> conda initialize >>>") == 1
    assert start.read_text().startswith("alias a=b\n")


@pytest.fixture
def installer(tmp_path: Path) -> Path:
    """An installer whose payload is cut: enough for everything that comes before it."""
    path = tmp_path / "Miniconda3.sh"
    path.write_bytes(miniconda._header(b"payload", 1_000_000, "python-3.10.0-h_0") + b"pay")
    return path


def _run(installer: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", installer, *words], capture_output=True, text=True, check=False)


def test_the_installer_refuses_a_prefix_that_exists(installer: Path, tmp_path: Path) -> None:
    done = _run(installer, "-b", "-p", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"ERROR: File or directory already exists: '{tmp_path}'",
        "If you want to update an existing installation, use the -u option.",
    ]


def test_the_installer_ends_with_2_after_its_help_and_1_after_a_wrong_word(installer: Path) -> None:
    assert _run(installer, "-h").returncode == 2
    assert _run(installer, "-b", "-z").returncode == 1


def test_a_cut_installer_warns_of_its_checksum_and_fails(installer: Path, tmp_path: Path) -> None:
    done = _run(installer, "-b", "-p", str(tmp_path / "new"))
    assert done.returncode != 0
    assert "WARNING: md5sum mismatch of tar archive" in done.stderr


def test_the_standin_says_what_it_is_in_info_only(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["info", "--json"])
    assert "stand-in" in json.loads(capsys.readouterr().out)["standin"]
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == "conda 26.1.0\n"
    assert "stand-in" in HEADER.read_text()


def test_a_half_made_base_environment_is_cleared_and_a_whole_one_kept(tmp_path: Path) -> None:
    for name in ("lib", "conda-meta", "pkgs", "envs"):
        (tmp_path / name).mkdir()
    bootstrap._begin(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"envs", "pkgs"}
    for name in ("bin", "lib"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "conda").touch()
    bootstrap._begin(tmp_path)
    assert (tmp_path / "lib").is_dir()
    assert not (tmp_path / "bin" / "conda").exists(), "a cut update would look whole"
