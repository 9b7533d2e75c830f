"""Errors of the origin's builders."""


class OriginError(Exception):
    """An artefact cannot be made; the message names it, what was found and the way out."""
