"""Makes the modules in ABSENT_MODULES not importable in a process with this folder on PYTHONPATH."""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from typing import Any

NAMES = frozenset(os.environ.get("ABSENT_MODULES", "").split())


class AbsentModules(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, AbsentModules())
