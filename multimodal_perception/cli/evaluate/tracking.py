"""`evaluate tracking`: CLEAR MOT metrics of the pipeline's tracks on labelled drives."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from multimodal_perception.cli.drive_options import requested_protocol
from multimodal_perception.cli.evaluate import detections
from multimodal_perception.cli.evaluate.report_options import (
    PICTURES,
    configuration_text,
    finish,
)
from multimodal_perception.cli.executor import report_failures
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.detection_report import detection_report
from multimodal_perception.evaluation.html_report import Report, ReportTable, number
from multimodal_perception.evaluation.recorded_drives import combine, worst_frames

FIGURES = ("mota", "motp_m", "id_switches", "misses", "false_positives", "labels", "objects")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    detections.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    jobs, config = detections.detection_jobs(args)
    outcomes = detections.run_detection_drives(args, jobs, "evaluate-tracking")
    failed = report_failures(outcomes)
    results = [o.result for o in outcomes if o.result is not None]
    if not results:
        return 2 if failed else 0
    if not any(r.tracking.frames for r in results):
        raise UserError(
            f"{', '.join(args.root)}: the labels or the pipeline's boxes have no track ids; tracking "
            "needs both (parameter pipeline.tracking.enabled)"
        )
    result = combine(
        results, requested_protocol(args), args.metrics, args.class_set[1:], args.max_range
    )
    result["without"] = sorted(args.without)
    result["tracking"]["drives"] = [
        {"name": r.name, **r.tracking.metrics()} for r in results if r.tracking.frames
    ]
    name = results[0].name if len(results) == 1 else f"{len(results)} drives"
    _print(name, result["tracking"])
    text = configuration_text("evaluate tracking", args, config)
    worst = worst_frames(results, PICTURES)

    def build(other: Mapping[str, Any] | None, criteria: ReportTable | None) -> Report:
        return detection_report(f"Tracking: {name}", result, worst, text, other, criteria)

    return max(finish(args, result, build), int(failed > 0))


def _print(name: str, metrics: Mapping[str, Any]) -> None:
    table = Table(title=f"tracking, {name}, within 2 m")
    for column in (
        "drive",
        "MOTA",
        "MOTP, m",
        "id switches",
        "missed",
        "false",
        "labels",
        "objects",
    ):
        table.add_column(column, justify="left" if column == "drive" else "right")
    for row in metrics["drives"]:
        table.add_row(row["name"], *(number(row[f]) for f in FIGURES))
    if len(metrics["drives"]) > 1:
        table.add_row("all", *(number(metrics[f]) for f in FIGURES))
    Console().print(table)
