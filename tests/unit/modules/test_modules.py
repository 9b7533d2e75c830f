"""What holds for every module: its documentation is true, and it runs on the hosts' Python."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils import basic

from tests.unit.modules.conftest import BOOTSTRAP, ROOT, load

MODULES = sorted((ROOT / "library").glob("*.py"))
SHARED = sorted((ROOT / "module_utils").glob("*.py"))
# The options that Ansible itself documents for modules that write a file.
FILE_OPTIONS = set(basic.FILE_COMMON_ARGUMENTS)


class CapturedError(Exception):
    """Carries a module's argument specification out of its main()."""


def compare(documented: dict[str, Any], declared: dict[str, Any]) -> None:
    """Compare options as documented with options as declared, through all levels."""
    assert set(documented) - FILE_OPTIONS == set(declared) - FILE_OPTIONS
    for name, text in documented.items():
        option = declared[name]
        assert text.get("description"), name
        for key in ("type", "elements", "choices", "default"):
            assert text.get(key) == option.get(key), f"{name}: {key}"
        assert text.get("required", False) == option.get("required", False), name
        if "suboptions" in text:
            compare(text["suboptions"], option["options"])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_documentation_says_what_the_module_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(path, monkeypatch)

    def capture(**words: Any) -> None:
        raise CapturedError(words)

    monkeypatch.setattr(module, "AnsibleModule", capture)
    with pytest.raises(CapturedError) as captured:
        module.main()
    words = captured.value.args[0]
    documentation = yaml.safe_load(module.DOCUMENTATION)
    assert documentation["module"] == path.stem
    compare(documentation["options"], words["argument_spec"])
    assert words["supports_check_mode"]
    for example in yaml.safe_load(module.EXAMPLES):
        assert set(example[path.stem]) <= set(words["argument_spec"]) | FILE_OPTIONS
    for value in yaml.safe_load(module.RETURN).values():
        assert value["description"]
        assert value["returned"]
        assert value["type"]


@pytest.mark.parametrize("path", [*MODULES, *SHARED], ids=lambda path: path.stem)
def test_the_code_is_of_the_hosts_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))


def old_python() -> str | None:
    """Return a Python 3.9 that runs, from PATH or pyenv; None when this machine has none."""
    named = [Path(name) for name in [shutil.which("python3.9")] if name]
    for path in [*named, *Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9")]:
        # pyenv leaves names on PATH that only say which versions it has.
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


# openai_probe runs with the release's Python, which is newer.
@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.stem != "openai_probe"], ids=lambda p: p.stem
)
def test_the_module_starts_with_python_3_9(path: Path) -> None:
    """The oldest Python of the hosts imports everything, and then looks at the options."""
    python = old_python()
    if python is None:
        pytest.skip("no Python 3.9 on this machine")
    site = str(Path(basic.__file__).parents[2])
    bootstrap = f"import sys; sys.path.append({site!r})\n{BOOTSTRAP}"
    ended = subprocess.run(
        [python, "-c", bootstrap, str(ROOT / "module_utils"), str(path)],
        input='{"nonsense": 1}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert "nonsense" in result["msg"] or "missing required" in result["msg"]


def test_ansible_doc_renders_every_module() -> None:
    names = [path.stem for path in MODULES]
    argv = [str(Path(sys.executable).with_name("ansible-doc")), "--json", "--type", "module"]
    argv += ["--module-path", str(ROOT / "library"), *names]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    documented = json.loads(ended.stdout)
    assert sorted(documented) == names
    assert all(entry["doc"]["description"] for entry in documented.values())
