"""Options of the evaluations for reports, criteria and comparison: --report, --criteria, --compare."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.criteria import (
    CriterionResult,
    check_criteria,
    load_criteria,
)
from multimodal_perception.evaluation.html_report import (
    Report,
    ReportTable,
    criteria_table,
    number,
    write_report,
)
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.extras import check_packages
from multimodal_perception.files import FileError, read_regular_file

MAX_JSON_BYTES = 256 << 20
# Number of worst frames in a report.
PICTURES = 10
ReportBuilder = Callable[[Mapping[str, Any] | None, ReportTable | None], Report]


def add_report_arguments(parser: argparse.ArgumentParser, compare: bool = True) -> None:
    """Add --report and --criteria, and --compare unless the command uses it for models."""
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="folder for a self-contained HTML page (index.html) with tables, charts and worst frames",
    )
    parser.add_argument(
        "--criteria",
        type=Path,
        metavar="FILE",
        help="YAML file with limits of figures by class and distance; the exit status is 1 if one is "
        "not met",
    )
    if compare:
        parser.add_argument(
            "--compare",
            dest="other",
            type=Path,
            metavar="JSON",
            help="result of another run (--json) to show side by side",
        )


def select_other(args: argparse.Namespace) -> Path | None:
    """The result among --compare, which then has only model cards. Raises UserError for several."""
    results = [Path(value) for value in args.compare if value.endswith(".json")]
    if len(results) > 1:
        raise UserError("--compare: only one result (.json) can be shown beside this one")
    args.compare = [value for value in args.compare if not value.endswith(".json")]
    return results[0] if results else None


def load_other(path: Path | None) -> dict[str, Any] | None:
    """The result of another run. Raises UserError that names the file."""
    if path is None:
        return None
    try:
        content = json.loads(read_regular_file(path, MAX_JSON_BYTES).decode("utf-8"))
    except FileError as error:
        raise UserError(f"--compare: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--compare: {path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"--compare: {path}: not a result of --json")
    return content


def finish(args: argparse.Namespace, result: dict[str, Any], build: ReportBuilder) -> int:
    """Write --json and --report, check --criteria. Returns the exit status, 1 if a limit is not met.

    build: makes the report of the other result (or None) and the table of the criteria (or None).
    """
    if args.json is not None:
        write_json(args.json, result)
    other = load_other(getattr(args, "other", None))
    checked: list[CriterionResult] = []
    if args.criteria is not None:
        checked = check_criteria(result, load_criteria(args.criteria), str(args.criteria))
        _print_criteria(checked)
    elif other is not None and args.report is None:
        raise UserError("--compare: needs --report DIR")
    if args.report is not None:
        table = criteria_table(checked) if checked else None
        print(f"report: {write_report(args.report, build(other, table))}")
    return int(any(not c.passed for c in checked))


def check_files(args: argparse.Namespace) -> None:
    """Check the files and packages that are needed after a long evaluation. Raises UserError.

    The files are --criteria and the result to compare with; the packages are those of --report.
    """
    if args.report is not None:
        check_packages("report")
    if args.criteria is not None:
        load_criteria(args.criteria)
    load_other(getattr(args, "other", None))


def configuration_text(command: str, args: argparse.Namespace, *configs: Any) -> str:
    """The options of a command and its configuration dataclasses as YAML."""
    options = {
        name: _plain(value)
        for name, value in sorted(vars(args).items())
        if value is not None and not callable(value)
    }
    content: dict[str, Any] = {"command": command, "options": options}
    for config in configs:
        content[type(config).__name__] = _plain(config)
    return yaml.safe_dump(content, sort_keys=False, width=100)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _print_criteria(results: list[CriterionResult]) -> None:
    table = Table(title="criteria")
    for name in ("figure", "required", "measured", "result"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for r in results:
        text = "[green]pass[/green]" if r.passed else "[red]FAIL[/red]"
        table.add_row(r.criterion.name, r.criterion.limit, number(r.value), text)
    Console().print(table)
