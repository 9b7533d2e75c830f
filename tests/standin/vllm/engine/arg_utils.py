"""Stand-in for `vllm.engine.arg_utils`: the checks that come after the command line's."""


class AsyncEngineArgs:
    """The engine's options."""

    def __init__(self, options):
        self.options = options

    @classmethod
    def from_cli_args(cls, args):
        """Take them from a parsed command line."""
        return cls(args.options)

    def create_engine_config(self, _usage_context=None):
        """Return the options; refuse `speculative-config: {refuse: true}`.

        Raises:
            ValueError: the parser took an option that the engine does not.
        """
        if (self.options.get("speculative-config") or {}).get("refuse"):
            raise ValueError("speculative-config: refused, as it was told to")
        return self.options
