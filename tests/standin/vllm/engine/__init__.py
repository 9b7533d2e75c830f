"""Stand-in for what checks the engine's options."""
