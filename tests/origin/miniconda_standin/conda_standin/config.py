"""conda's configuration files, merged as conda merges them, for the words that matter here.

Order and merging follow conda's documentation, "Using the .condarc conda configuration file".
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from .errors import ConfigurationLoadError

_DEFAULTS: dict[str, Any] = {
    "add_pip_as_python_dependency": True,
    "always_yes": None,
    "channel_alias": "https://conda.anaconda.org",
    "channel_priority": "flexible",
    "channels": [],
    "custom_channels": {"pkgs/pro": "https://repo.anaconda.com"},
    "custom_multichannels": {},
    "default_channels": [
        "https://repo.anaconda.com/pkgs/main",
        "https://repo.anaconda.com/pkgs/r",
    ],
    "envs_dirs": [],
    "pkgs_dirs": [],
    "remote_connect_timeout_secs": 9.15,
    "remote_max_retries": 3,
    "remote_read_timeout_secs": 60.0,
    "show_channel_urls": None,
    "ssl_verify": True,
}
_NAMES = (".condarc", "condarc", "condarc.d")


@dataclass
class Config:
    """The merged configuration of one conda installation.

    Attributes:
        root: the installation's prefix.
        words: every word known here with its value.
        files: the files that were read, least important first.
    """

    root: Path
    words: dict[str, Any]
    files: list[Path] = field(default_factory=list)

    @property
    def pkgs_dir(self) -> Path:
        """Where packages are kept: the first directory that may be written."""
        named = [Path(p).expanduser() for p in self.words["pkgs_dirs"]]
        candidates = [*named, self.root / "pkgs", Path.home() / ".conda" / "pkgs"]
        return next((p for p in candidates if _writable(p)), candidates[-1])

    @property
    def envs_dir(self) -> Path:
        """Where environments given by name are made."""
        named = [Path(p).expanduser() for p in self.words["envs_dirs"]]
        candidates = [*named, self.root / "envs", Path.home() / ".conda" / "envs"]
        return next((p for p in candidates if _writable(p)), candidates[-1])

    def channel_urls(self, names: list[str]) -> list[str]:
        """Returns the addresses of channels given by name or address, in order, each once."""
        found: list[str] = []
        for name in names:
            if name == "defaults":
                found += [self._url(url) for url in self.words["default_channels"]]
            elif name in self.words["custom_multichannels"]:
                found += [self._url(url) for url in self.words["custom_multichannels"][name]]
            else:
                found.append(self._url(name))
        return list(dict.fromkeys(found))

    def _url(self, name: str) -> str:
        if "://" in name:
            return name.rstrip("/")
        base = self.words["custom_channels"].get(name, self.words["channel_alias"])
        return f"{base.rstrip('/')}/{name.strip('/')}"

    def shown_name(self, url: str) -> str:
        """Returns a channel's name as conda shows it to people: ``defaults`` for all of these."""
        if url.rstrip("/") in self.channel_urls(["defaults"]):
            return "defaults"
        return self.channel_name(url)

    def channel_name(self, url: str) -> str:
        """Returns a channel's name as conda's JSON has it: a custom channel's, or its path."""
        address = url.rstrip("/")
        for name in self.words["custom_channels"]:
            if self._url(name) == address:
                return str(name)
        return urlsplit(address).path.strip("/")


def defaults() -> dict[str, Any]:
    """Returns every word with the value it has when no file speaks of it."""
    return copy.deepcopy(_DEFAULTS)


def load(root: Path) -> Config:
    """Reads every configuration file there is and the environment's variables.

    Args:
        root: the prefix that conda is installed in.

    Raises:
        ConfigurationLoadError: a file is no YAML mapping, or a word has the wrong type.
    """
    config = Config(root, defaults())
    layers: list[dict[str, Any]] = []
    for path in _search(root):
        layers.append(_read(path))
        config.files.append(path)
    layers.append(_from_environment())
    for word, default in _DEFAULTS.items():
        # The most important file comes last in the search and first in a merged list.
        given = [layer[word] for layer in reversed(layers) if layer.get(word) is not None]
        config.words[word] = _merge(word, given, default)
    return config


def _merge(word: str, given: list[Any], default: Any) -> Any:
    if not given:
        return default
    kind = type(default) if isinstance(default, (list, dict)) else None
    if kind and not all(isinstance(value, kind) for value in given):
        raise ConfigurationLoadError(
            f"{word} must be a {'list' if kind is list else 'map'}: {given}"
        )
    if kind is list:
        return list(dict.fromkeys(item for value in given for item in value))
    if kind is dict:
        merged = dict(default)
        for value in reversed(given):
            merged.update(value)
        return merged
    return given[0]


def _search(root: Path) -> list[Path]:
    home = Path.home()
    places = [Path("/etc/conda"), Path("/var/lib/conda"), root]
    if os.environ.get("XDG_CONFIG_HOME"):
        places.append(Path(os.environ["XDG_CONFIG_HOME"]) / "conda")
    places += [home / ".config" / "conda", home / ".conda"]
    paths = [found for place in places for name in _NAMES for found in _one(place / name)]
    paths += _one(home / ".condarc")
    if os.environ.get("CONDA_PREFIX"):
        prefix = Path(os.environ["CONDA_PREFIX"])
        paths += [found for name in _NAMES for found in _one(prefix / name)]
    if os.environ.get("CONDARC"):
        paths += _one(Path(os.environ["CONDARC"]))
    return list(dict.fromkeys(paths))


def _one(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in {".yml", ".yaml"})
    return [path] if path.is_file() else []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationLoadError(
            f"Unable to load configuration file {path}: {error}"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationLoadError(f"Unable to load configuration file {path}: no map of words")
    if "channel" in content:
        content.setdefault("channels", [content.pop("channel")])
    return content


def _from_environment() -> dict[str, Any]:
    """The variables that conda reads: CONDA_<WORD>, lists separated by commas."""
    layer: dict[str, Any] = {}
    for word, default in _DEFAULTS.items():
        text = os.environ.get(f"CONDA_{word.upper()}")
        if text is None or isinstance(default, dict):
            continue
        layer[word] = text.split(",") if isinstance(default, list) else yaml.safe_load(text)
    return layer


def _writable(path: Path) -> bool:
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK)
