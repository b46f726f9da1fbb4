"""What `evaluate`, `train` and `export` can do: a package each, a module a task.

A task is like a command: HELP, add_arguments(parser) and run(args). All of a command's tasks are
imported to list them, so what is heavy (torch, Open3D) is imported inside run.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from types import ModuleType


def add_tasks(parser: argparse.ArgumentParser, package: ModuleType) -> None:
    """Make each module of a package a task of a command; the chosen one's run is args.run_task."""
    subparsers = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        module = importlib.import_module(f"{package.__name__}.{name}")
        word = name.replace("_", "-")
        subparser = subparsers.add_parser(word, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run_task=module.run)
