"""Where older versions have their server."""
