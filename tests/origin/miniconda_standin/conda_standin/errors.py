"""Errors as conda names them."""

from __future__ import annotations


class CondaError(Exception):
    """Ends the command with status 1; the class's name is printed before the message."""


class CondaHTTPError(CondaError):
    """A channel could not be read."""


class PackagesNotFoundError(CondaError):
    """The channels do not offer what is asked for."""


class EnvironmentLocationNotFound(CondaError):  # noqa: N818  # conda's own name
    """There is no environment at a path."""


class EnvironmentNameNotFound(CondaError):  # noqa: N818  # conda's own name
    """There is no environment of a name."""


class NoChannelsConfiguredError(CondaError):
    """No channel is configured: conda 26 has no implicit one."""


class CondaEnvironmentError(CondaError):
    """What is asked for must not be done to this environment."""


class ConfigurationLoadError(CondaError):
    """A configuration file cannot be read."""
