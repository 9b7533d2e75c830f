"""Stand-in for `python -m vllm.entrypoints.openai.api_server`, the way in of older versions."""

from vllm.serve import run

if __name__ == "__main__":
    run("api_server")
