"""Report of `evaluate occupancy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_perception.evaluation.detection_report import compare_table
from multimodal_perception.evaluation.html_report import (
    Report,
    ReportChart,
    ReportPicture,
    ReportTable,
    installed_versions,
    number,
)
from multimodal_perception.evaluation.report_charts import (
    bar_chart,
    histogram,
    line_chart,
    matrix_chart,
)

FIGURES = tuple(
    (name, (key,))
    for name, key in (
        ("IoU of occupied cells", "iou_occupied"),
        ("IoU of free cells", "iou_free"),
        ("occupied cells that are predicted free", "false_free"),
        ("free cells that are predicted occupied", "false_occupied"),
        ("Brier score", "brier"),
        ("calibration error ECE", "ece"),
        ("AUROC of wrong cells", "error_auroc"),
        ("observed cells", "observed"),
        ("unknown mass", "unknown"),
        ("conflict", "conflict"),
        ("frames", "frames"),
    )
)
COLUMNS = (
    "iou_occupied",
    "iou_free",
    "false_free",
    "false_occupied",
    "ece",
    "error_auroc",
    "unknown",
    "conflict",
)
LEGEND = (
    "left: the grid, dark is occupied; centre: the truth (grey: undecided); right: errors, red where an "
    "occupied cell is predicted free, orange where a free cell is predicted occupied"
)


def occupancy_report(
    result: Mapping[str, Any],
    times_ms: Sequence[float],
    pictures: Sequence[ReportPicture],
    configuration: str,
    other: Mapping[str, Any] | None = None,
    criteria: ReportTable | None = None,
) -> Report:
    """The page of a result of `evaluate occupancy`. other: a result to compare with."""
    return Report(
        "Occupancy",
        f"{result['frames']} simulated frames, all sensors in known conditions",
        compare_table(FIGURES, result, other),
        _charts(result, times_ms, other),
        _tables(result),
        pictures,
        f"The {len(pictures)} worst frames",
        LEGEND,
        criteria,
        configuration,
        installed_versions(),
    )


def _charts(
    result: Mapping[str, Any], times_ms: Sequence[float], other: Mapping[str, Any] | None
) -> list[ReportChart]:
    lines, others = _reliability(result), _reliability(other or {})
    charts = [
        line_chart(
            "Reliability of the probability of occupied",
            lines,
            ("mean probability", "fraction of occupied cells"),
            others,
            diagonal=True,
        )
    ]
    bands = result.get("by_distance", {})
    if bands:
        series = {
            name: [b.get(name) for b in bands.values()]
            for name in ("iou_occupied", "iou_free", "false_free")
        }
        charts.append(bar_chart("By distance", list(bands), series, "fraction"))
    subsets = result.get("by_subset", {})
    if subsets:
        series = {
            name: [s.get(name) for s in subsets.values()] for name in ("iou_occupied", "iou_free")
        }
        charts.append(bar_chart("By sensors", list(subsets), series, "IoU"))
    if result.get("confusion"):
        charts.append(
            matrix_chart(
                "Confusion of observed cells",
                ("free", "occupied"),
                ("free", "occupied", "neither"),
                result["confusion"],
            )
        )
    if times_ms:
        charts.append(histogram("Latency of the pipeline", {"this": times_ms}, "ms per frame"))
    return charts


def _tables(result: Mapping[str, Any]) -> list[ReportTable]:
    rows = [
        [f"{subset}, {condition}", *(number(values[c]) for c in COLUMNS)]
        for subset, metrics in result.get("by_subset", {}).items()
        for condition, values in metrics["by_condition"].items()
    ]
    tables = [ReportTable(("sensors, condition", *COLUMNS), rows, "By sensors and condition")]
    if result.get("real"):
        real = [[k, number(v, 4)] for k, v in result["real"].items()]
        tables.append(ReportTable(("figure", "value"), real, "Labelled real frames"))
    return tables


def _reliability(result: Mapping[str, Any]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    bins = result.get("reliability", [])
    if not bins:
        return {}
    return {"cells": ([b["probability"] for b in bins], [b["occupied"] for b in bins])}
