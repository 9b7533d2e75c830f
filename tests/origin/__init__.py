"""The lab's small internet: what the sources on the real one serve, made here from PyPI alone."""
