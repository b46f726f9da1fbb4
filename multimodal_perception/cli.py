"""The `multimodal-perception` command; a subcommand is a module of `commands`."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

from multimodal_perception import __version__, commands
from multimodal_perception.configuration import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Exit codes: 0 done, 1 a check did not hold, 2 unusable input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    parser = _build_parser(name)
    try:
        namespace = parser.parse_args(arguments)
        if namespace.command is None:
            parser.print_help()
            return 2
        return int(namespace.run(namespace))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has gone: the usual end of a pipe, not a fault.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _build_parser(selected: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="multimodal-perception",
        description="3D boxes and BEV occupancy from cameras, LiDAR, thermal and ultrasonics.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    # `import` is no name for a module: import_.
    modules = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    names = {module.rstrip("_"): module for module in modules}
    for name, module_name in names.items():
        # Only the chosen command is imported: torch and rclpy would slow down every other one.
        if selected not in (None, name) and selected in names:
            continue
        module = importlib.import_module(f"{commands.__name__}.{module_name}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
