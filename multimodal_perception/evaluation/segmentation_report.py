"""Report of `evaluate segmentation`, on real images or simulated drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_perception.evaluation.confidence import reliability_line
from multimodal_perception.evaluation.html_report import (
    Report,
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

LEGEND = (
    "left: the image with wrong pixels in red; centre: the label; right: the prediction (black: not "
    "counted)"
)


def segmentation_report(
    title: str,
    scores: Mapping[str, Mapping[str, Any]],
    times_ms: Mapping[str, Sequence[float]],
    pictures: Sequence[ReportPicture],
    configuration: str,
    other: Mapping[str, Mapping[str, Any]] | None = None,
    criteria: ReportTable | None = None,
) -> Report:
    """The page of one or several rows of scores, each with miou, iou, accuracy and confusion.

    scores: by row, such as the model, or the model, its images and the condition. times_ms: time of each
    image by row. other: scores of another run.
    """
    merged = {**scores, **{f"other: {k}": v for k, v in (other or {}).items()}}
    names = list(next(iter(scores.values()))["iou"])
    header = ("row", "mIoU, %", "accuracy, %", *names)
    rows = [
        [
            row,
            _percent(s["miou"]),
            _percent(s["accuracy"]),
            *(_percent(s["iou"].get(n)) for n in names),
        ]
        for row, s in merged.items()
    ]
    series = {row: [s["iou"].get(n) for n in names] for row, s in list(merged.items())[:6]}
    charts = [bar_chart("IoU by class", names, series, "IoU")]
    first, score = next(iter(scores.items()))
    if score.get("confusion"):
        classes = score.get("classes", names)
        charts.append(
            matrix_chart(f"Confusion of pixels, {first}", classes, classes, score["confusion"])
        )
    lines = {row: reliability_line(s.get("confidence")) for row, s in list(scores.items())[:6]}
    known = {row: line for row, line in lines.items() if line is not None}
    if known:
        labels = ("mean confidence", "fraction of right pixels")
        charts.append(line_chart("Reliability of the confidence", known, labels, diagonal=True))
    if any(len(v) for v in times_ms.values()):
        charts.append(histogram("Latency of the network", times_ms, "milliseconds per image"))
    return Report(
        title,
        ", ".join(scores) if len(scores) <= 3 else f"{len(scores)} rows",
        ReportTable(header, rows, note="IoU in percent"),
        charts,
        _confidence_tables(merged),
        pictures,
        f"The {len(pictures)} worst images",
        LEGEND,
        criteria,
        configuration,
        installed_versions(),
    )


def _confidence_tables(scores: Mapping[str, Mapping[str, Any]]) -> list[ReportTable]:
    columns = ("ece", "brier", "error_auroc")
    rows = [
        [row, *(number(s["confidence"].get(c)) for c in columns)]
        for row, s in scores.items()
        if s.get("confidence", {}).get("results")
    ]
    header = ("row", "ECE", "Brier score", "AUROC of wrong pixels")
    return [ReportTable(header, rows, "Confidence of the labels")] if rows else []


def _percent(value: Any) -> str:
    return "-" if value is None else number(100 * value, 1)
