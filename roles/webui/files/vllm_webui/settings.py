"""What the unit gives the application: one file of settings, and its credentials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LOGINS = "logins"


class SettingsError(Exception):
    """The application cannot start as it is configured; says what is wrong."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Endpoint(_Part):
    """One instance of a server.

    Attributes:
        name: Its name, for people.
        url: Its API, ending in `/v1`.
        credential: Name of the credential that holds its API key; empty where it asks for none.
        vision: Whether it understands images.
    """

    name: str
    url: str
    credential: str = ""
    vision: bool = False


class Settings(_Part):
    """The file of settings.

    Attributes:
        title: What the page is called.
        language: The page's language; `auto` follows the browser.
        system_prompt: What each conversation begins with, until somebody changes it.
        endpoints: The instances whose models can be chosen.
        socket: Unix socket to listen on. This or `port` must be given.
        port: TCP port to listen on, at 127.0.0.1.
        answers: The most answers that are made at one time.
        login: Whether one must log in; the accounts are in the credential `logins`.
        share: Address and port of the door that a public link leads to; empty for no such link.
    """

    title: str = "vLLM"
    language: Literal["auto", "en", "zh"] = "auto"
    system_prompt: str = ""
    endpoints: list[Endpoint] = Field(min_length=1)
    socket: Path | None = None
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    answers: Annotated[int, Field(ge=1, le=1024)] = 16
    login: bool = False
    share: str = ""


def read_settings(file: Path) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: They cannot be read, or say what they may not.
    """
    try:
        settings = Settings.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from error
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg']}" for one in error.errors()
        )
        raise SettingsError(f"{file}: {said}") from error
    if (settings.socket is None) == (settings.port is None):
        raise SettingsError(f"{file}: one of socket and port must be given")
    return settings


def read_credential(folder: Path | None, name: str) -> str:
    """Read a credential that systemd has put into a folder of the service's own.

    Raises:
        SettingsError: There is none; its content is never told.
    """
    if folder is None:
        raise SettingsError(f"credential {name}: CREDENTIALS_DIRECTORY is not set")
    try:
        return (folder / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SettingsError(f"credential {name} cannot be read: {reason}") from None


def read_keys(settings: Settings, folder: Path | None) -> dict[str, str]:
    """Read the API keys by the names of their credentials.

    Raises:
        SettingsError: One is missing or empty.
    """
    names = sorted({one.credential for one in settings.endpoints if one.credential})
    keys = {name: read_credential(folder, name) for name in names}
    empty = [name for name, key in keys.items() if not key]
    if empty:
        raise SettingsError(f"credential {empty[0]} is empty")
    return keys


def read_logins(settings: Settings, folder: Path | None) -> dict[str, str]:
    """Read the accounts: each user's hashed password.

    Raises:
        SettingsError: One must log in and nobody can.
    """
    if not settings.login:
        return {}
    try:
        logins = json.loads(read_credential(folder, LOGINS))
    except ValueError as error:
        raise SettingsError(f"credential {LOGINS} is no JSON") from error
    if not isinstance(logins, dict) or not logins:
        raise SettingsError(f"credential {LOGINS} names no account")
    return {str(user): str(hashed) for user, hashed in logins.items()}
