"""Both servers run the wheel that the build host compiled, and can compile nothing themselves."""

import httpx
from conftest import BASE

PYTHON = "/opt/vllm/current/bin/python"
UNIT = "vllm@smollm2-135m.service"
MODULE = "vllm/_C.abi3.so"
HASHED = (
    "import hashlib, sys, zipfile; "
    "print(hashlib.sha256(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2])).hexdigest())"
)


def test_a_server_has_nothing_to_compile_with(server):
    for name in ("cc", "gcc", "g++", "g++-12", "cmake", "ninja", "ccache"):
        assert server.run(f"command -v {name}").rc != 0, name
    assert not server.file(BASE).exists


def test_a_server_has_that_very_wheel(server, build):
    carried = server.file(f"/var/cache/vllm-ansible/wheels/{build['filename']}")
    assert carried.sha256sum == build["sha256"]


def test_a_server_runs_what_was_compiled(server, builder, wheel):
    code = "import vllm; print(vllm.__version__, vllm.add('20 years', '22 more'), vllm.__path__[0])"
    version, total, path = server.check_output(f'{PYTHON} -c "{code}"').split()
    assert (version, total) == ("0.31.0+cpu", "42")
    compiled = builder.check_output(f'python3 -c "{HASHED}" {wheel} {MODULE}')
    assert server.file(f"{path}/{MODULE.partition('/')[2]}").sha256sum == compiled
    assert server.check_output(f"systemctl is-active {UNIT}") == "active"


def test_the_service_answers(server):
    key = server.file("/etc/vllm/api_key").content_string.strip()
    answer = httpx.post(
        f"http://{server.backend.host.name}:8000/v1/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Name the capital of France."}],
        },
        timeout=60,
    )
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
