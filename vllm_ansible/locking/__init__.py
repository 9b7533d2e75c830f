"""Lock files of the engine: which there have to be, how one is made, and whether it is stale."""
