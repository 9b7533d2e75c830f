"""Stand-in for what the engine is told about its use."""
