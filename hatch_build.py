"""Compiles the engine when motherbird is built, for a wheel or an editable installation."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = Path(__file__).parent / "src" / "motherbird" / "engine" / "compile.py"


def _compile_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_engine", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildHook(BuildHookInterface[Any]):
    """Called by pip."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return the compiler where the system has none."""
        return ["ziglang"] if _compile_module().compiler()[0] == sys.executable else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the library into the wheel."""
        if self.target_name != "wheel":
            return
        module = _compile_module()
        # Set by tools/wheels.py.
        target, _, tag = os.environ.get("MOTHERBIRD_TARGET", "").partition(":")
        tag = tag or sysconfig.get_platform()
        try:
            module.compile_engine(module.LIBRARY, target)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"the engine cannot be compiled: {error}; install gcc 11, clang or ziglang")
        build_data["artifacts"].append(str(module.LIBRARY.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{re.sub('[-.]', '_', tag)}"  # no Python version in ctypes
