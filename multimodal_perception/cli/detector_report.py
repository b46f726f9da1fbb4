"""Tables of the commands that evaluate detectors on simulated drives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from multimodal_perception.evaluation.report import write_json

Rows = Mapping[str, Mapping[str, Any]]


def print_report(title: str, result: Mapping[str, Any], path: Path | None) -> None:
    """Print tables of mAP and AP in percent, and write the result to `path` if that is not None."""
    rows = result["rows"]
    overview = overview_table(rows)
    overview.title = f"{title}: {result['frames']} frames, seeds {result['seeds']}"
    tables = [
        overview,
        by_class_table(rows),
        map_table("by_view", rows, "mAP by the images that show the box centre"),
        map_table("by_points", rows, "mAP by the LiDAR points on the object"),
        map_table("by_sector", rows, "mAP by the cameras that show the box centre"),
        reliability_table(rows),
    ]
    first = next(iter(rows.values()))
    for name in first.get("class_sets", {}):
        parts = {row: metrics["class_sets"][name] for row, metrics in rows.items()}
        tables.append(by_class_table(parts, f"AP by class, class set {name}"))
    console = Console()
    for table in tables:
        if table.columns[1:]:
            console.print(table)
    if path is not None:
        write_json(path, dict(result))


def overview_table(rows: Rows) -> Table:
    """mAP of the rows in total, by condition and by distance, and the median time per frame.

    With several sets of seeds also the mean and the standard deviation of the mAP over the sets.
    """
    first = next(iter(rows.values()))
    conditions, bands = list(first["by_condition"]), list(first["by_distance"])
    names = ["mAP", *conditions, *(f"{band} m" for band in bands), "p50 ms"]
    over_sets = "map_over_sets" in first
    table = _table([*names, *(["mean of sets"] if over_sets else [])])
    for name, metrics in rows.items():
        maps = [metrics["map"], *(metrics["by_condition"][c]["map"] for c in conditions)]
        maps += [metrics["by_distance"][band]["map"] for band in bands]
        cells = [*map(_percent, maps), f"{metrics['latency_ms']['p50']:.1f}"]
        if over_sets:
            values = metrics["map_over_sets"]
            cells.append(f"{_percent(values['mean'])} +- {_percent(values['deviation'])}")
        table.add_row(name, *cells)
    return table


def by_class_table(rows: Rows, title: str = "AP by class") -> Table:
    """AP of the classes with labels, and the mAP."""
    first = next(iter(rows.values()))
    classes = [c for c, values in first["by_class"].items() if values["labels"]]
    table = _table([*classes, "mAP"], title)
    for name, metrics in rows.items():
        aps = (_percent(metrics["by_class"][c]["ap"]) for c in classes)
        table.add_row(name, *aps, _percent(metrics["map"]))
    return table


def map_table(key: str, rows: Rows, title: str) -> Table:
    """mAP of the groups of a grouping (such as "by_view") that have labels."""
    first = next(iter(rows.values())).get(key, {})
    groups = [group for group, part in first.items() if part["labels"]]
    table = _table([f"{g} ({first[g]['labels']})" for g in groups], title)
    for name, metrics in rows.items():
        parts = metrics.get(key, {})
        maps = (parts[g]["map"] if g in parts else math.nan for g in groups)
        table.add_row(name, *map(_percent, maps))
    return table


def reliability_table(rows: Rows) -> Table:
    """Calibration of scores and covariances, velocity errors, and recall of objects in images."""
    names = ("ECE", "D-ECE", "NEES xy", "moving car m/s", "recall in images", "false boxes")
    table = _table(names, "scores, covariances, velocity; recall within 2 m of objects within 30 m")
    for name, metrics in rows.items():
        calibration, images = metrics["calibration"], metrics["images_within_30m"]
        covariance = metrics["covariances"].get("xy", {})
        car = metrics["velocity"].get("car", {}).get("moving", {})
        table.add_row(
            name,
            _number(calibration["ece"], 3),
            _number(calibration["d_ece"], 3),
            _number(covariance.get("nees", math.nan), 2),
            _number(car.get("mean", math.nan), 2),
            _percent(images["recall"]),
            _number(images["false_boxes_per_frame"], 2),
        )
    return table


def _table(names: Sequence[str], title: str | None = None) -> Table:
    table = Table(title=title)
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
