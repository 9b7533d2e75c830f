"""Stand-in for `vllm serve`: the stand-in engine where vLLM's would be.

What it does beside answering comes, in this order, from the release (a broken one), the variable
STANDIN_ENGINE and the file `standin-engine` in the working directory: words of the stand-in
engine's own command line, `python -m vllm.standin_engine --help`. It is ill once there is a file
`ill` in that directory, and answers no question once there is a file `hang`; a start cures both.
Its one kernel lies in TORCHINDUCTOR_CACHE_DIR and says by whom it was compiled: the first who was
started without it.
"""

import os
import shlex
import sys
from pathlib import Path

from vllm import __version__, standin_engine
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.fault import FAULT
from vllm.usage.usage_lib import UsageContext

FAULTS = {
    "dies": ["--start-delay", "1", "--exit-after", "0.5"],
    "never": ["--fail-after", "0"],
    "refuses": ["--refuse", "500"],
    "empty": ["--answer", ""],
}
HERE = Path("standin-engine")


def compile_kernel(who):
    """Leave what an engine leaves at its first start."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        kernel = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / f"kernel-{__version__}"
        kernel.parent.mkdir(parents=True, exist_ok=True)
        if not kernel.is_file():
            kernel.write_text(who, encoding="utf-8")


class ServeSubcommand:
    """The subcommand `serve`."""

    name = "serve"

    @staticmethod
    def cmd(args):
        """Serve until stopped."""
        options = AsyncEngineArgs.from_cli_args(args).create_engine_config(
            UsageContext.OPENAI_API_SERVER
        )
        names = options.get("served-model-name") or options["model"]
        words = []
        for name in [names] if isinstance(names, str) else names:
            words += ["--model", name]
        for flag in ("uds", "host", "port", "max-model-len"):
            words += [f"--{flag}", str(options[flag])] if flag in options else []
        for trouble in ("ill", "hang"):
            Path(trouble).unlink(missing_ok=True)
            words += [f"--{trouble}-file", trouble]
        words += FAULTS.get(FAULT, [])
        words += shlex.split(os.environ.get("STANDIN_ENGINE", ""))
        words += shlex.split(HERE.read_text(encoding="utf-8")) if HERE.is_file() else []
        compile_kernel(str(options.get("uds")))
        sys.argv = [sys.argv[0], *words]
        standin_engine.main()
