"""Stand-in for the program `vllm`."""
