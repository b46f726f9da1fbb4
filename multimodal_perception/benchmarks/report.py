"""Options and output shared by all benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.report import write_json


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --json, which every benchmark has."""
    parser.add_argument("--json", type=Path, help="JSON file to write the results to")


def add_seconds_argument(
    parser: argparse.ArgumentParser, default: float, what: str = "duration of the measurement"
) -> None:
    """Add the option --seconds. what: the start of its help text."""
    parser.add_argument(
        "--seconds", type=float, default=default, help=f"{what} in seconds (default: {default:g})"
    )


def check_options(args: argparse.Namespace) -> None:
    """Check the numeric options of a benchmark. Raises UserError with the allowed values."""
    values = vars(args)
    if values.get("seconds") is not None and not args.seconds > 0:
        raise UserError(f"--seconds: allowed: above 0; got {args.seconds:g}")
    for name in ("frames", "workers", "repeats"):
        value = values.get(name)
        if value is not None and not 1 <= value <= 10_000:
            raise UserError(f"--{name}: allowed: 1 to 10000; got {value}")
    if values.get("threads") is not None and not 0 <= args.threads <= 1024:
        raise UserError(f"--threads: allowed: 0 to 1024; got {args.threads}")


def print_report(name: str, result: dict[str, Any], path: Path | None) -> None:
    """Print a benchmark's results as a table, and write them to a JSON file if a path is given."""
    table = Table(title=f"bench {name}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in flatten(result):
        table.add_row(key, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if path is not None:
        write_json(path, result)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs in order."""
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows
