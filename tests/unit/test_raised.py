"""Which lines of a log are the errors that a program in Python ended with."""

from __future__ import annotations

import pytest


@pytest.fixture
def raised(module_util):
    return module_util("vllm_raised").raised


ERROR = "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found"


@pytest.mark.parametrize(
    "before",
    [
        "",
        "(EngineCore pid=1234) ",
        "ERROR 11-29 08:00:00 [core.py:946] ",
        "(EngineCore_DP0 pid=7) ERROR 11-29 08:00:00 [core.py:946] ",
        "2026-11-29T08:00:00+00:00 cpu1 vllm[123]: ",
        "2026-11-29T08:00:00+0000 cpu1 vllm[123]: (EngineCore pid=7) ",
    ],
)
def test_an_error_is_found_after_what_is_put_before_a_line(raised, before):
    assert raised([f"{before}Traceback (most recent call last):", f"{before}{ERROR}"]) == [ERROR]


@pytest.mark.parametrize(
    "line",
    [
        "    raise RuntimeError(",
        "WARNING vllm: this can cause errors like `OSError: [Errno 24] Too many open files`",
        "INFO vllm: no ValueError: here",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ],
)
def test_no_other_line_is_taken_for_an_error(raised, line):
    assert raised([line]) == []


def test_each_error_is_told_once_the_latest_at_the_end(raised):
    lines = ["ValueError: a", "KeyError: b", "ValueError: a"]
    assert raised(lines) == ["KeyError: b", "ValueError: a"]
