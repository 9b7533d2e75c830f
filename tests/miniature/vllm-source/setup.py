"""Stand-in for vLLM's setup.py: the same variables, CMake and ninja, one small module."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
DEVICE = os.environ.get("VLLM_TARGET_DEVICE", "cuda")


def version():
    """The version asked for, or the tree's own and the device."""
    override = os.environ.get("VLLM_VERSION_OVERRIDE")
    own = os.environ.get("SETUPTOOLS_SCM_PRETEND_VERSION", "0.31.0")
    return override or f"{own}+{DEVICE}"


def requirements():
    """The lines of the runtime file of this device, without the installer's options."""
    text = (ROOT / "requirements" / f"{DEVICE}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and line[0] not in "#-"]


class CMakeBuild(build_ext):
    """Compiles with CMake and ninja, as many at once as MAX_JOBS says."""

    def build_extensions(self):
        temp = Path(self.build_temp).resolve()
        temp.mkdir(parents=True, exist_ok=True)
        words = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
        words += [f"-DVLLM_TARGET_DEVICE={DEVICE}", f"-DVLLM_PYTHON_EXECUTABLE={sys.executable}"]
        words += [f"-DFETCHCONTENT_BASE_DIR={ROOT / '.deps'}"]
        if shutil.which("ccache"):
            words += [f"-DCMAKE_{name}_COMPILER_LAUNCHER=ccache" for name in ("C", "CXX")]
        subprocess.check_call(["cmake", str(ROOT), *words], cwd=temp)
        jobs = os.environ.get("MAX_JOBS", "1")
        subprocess.check_call(["cmake", "--build", ".", f"-j={jobs}", "--target=_C"], cwd=temp)
        target = Path(self.build_lib) / "vllm"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(temp / "_C.abi3.so", target)


if DEVICE != "cpu":
    sys.exit(f"VLLM_TARGET_DEVICE is {DEVICE}; these sources are for cpu")

setup(
    version=version(),
    packages=["vllm"],
    install_requires=requirements(),
    ext_modules=[Extension("vllm._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": CMakeBuild},
)
