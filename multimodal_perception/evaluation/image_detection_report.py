"""Report of `evaluate image-detector`, on simulated drives or on real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_perception.evaluation.confidence import reliability_line
from multimodal_perception.evaluation.html_report import (
    Report,
    ReportChart,
    ReportPicture,
    ReportTable,
    installed_versions,
    number,
)
from multimodal_perception.evaluation.image_box_errors import LEGEND
from multimodal_perception.evaluation.report_charts import bar_chart, line_chart

# Rows that the charts show.
CHART_ROWS = 6
CONFIDENCE_COLUMNS = ("ECE", "Brier score", "AUROC of wrong boxes")
Rows = Mapping[str, Mapping[str, Any]]


def image_detection_report(
    title: str,
    result: Mapping[str, Any],
    pictures: Sequence[ReportPicture],
    configuration: str,
    other: Mapping[str, Any] | None = None,
    criteria: ReportTable | None = None,
) -> Report:
    """The page of a result of `evaluate image-detector`. other: a result to show beside it."""
    rows = flat_rows(result)
    merged = {**rows, **{f"other: {k}": v for k, v in flat_rows(other or {}).items()}}
    return Report(
        title,
        ", ".join(rows) if len(rows) <= 3 else f"{len(rows)} rows",
        _summary(merged),
        _charts(merged),
        [*_class_tables(merged), *_confidence_tables(merged), *_projection_tables(result)],
        pictures,
        f"The {len(pictures)} worst images",
        LEGEND,
        criteria,
        configuration,
        installed_versions(),
    )


def flat_rows(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores by row: the model, or for simulated drives the images and the condition.

    Each row has ap, ap50, confidence, and the figures of each class in `classes`; for data sets with
    pixel labels it is the summary of the person regions.
    """
    rows: dict[str, dict[str, Any]] = {}
    confidences = result.get("confidence", {})
    for name, scores in result.get("rows", {}).items():
        if not confidences:
            rows[name] = dict(scores)
            continue
        for condition, by_class in scores.items():
            every = by_class["all"]
            rows[f"{name}, {condition}"] = {
                "ap": every["ap"],
                "ap50": every["ap50"],
                "confidence": confidences.get(name, {}).get(condition, {}),
                "classes": {n: v for n, v in by_class.items() if n != "all"},
            }
    return rows


def _summary(rows: Rows) -> ReportTable:
    if any("coverage" in r for r in rows.values()):
        columns = ("row", "images", "covered person regions, %", "person boxes on people, %")
        cells = [
            [
                name,
                number(r.get("images")),
                _percent(r.get("coverage")),
                _percent(r.get("supported_share")),
            ]
            for name, r in rows.items()
        ]
        return ReportTable(columns, cells)
    header = ("row", "AP, %", "AP50, %", "nested boxes, %", "boxes", *CONFIDENCE_COLUMNS)
    cells = [
        [
            name,
            _percent(r.get("ap")),
            _percent(r.get("ap50")),
            _percent(r.get("nested_share")),
            number(r.get("confidence", {}).get("results")),
            *_confidence_cells(r.get("confidence", {})),
        ]
        for name, r in rows.items()
    ]
    return ReportTable(
        header,
        cells,
        note="AP: all boxes; the others: boxes with at least the detector's score threshold, which are "
        "right if they match a label at IoU 0.5",
    )


def _charts(rows: Rows) -> list[ReportChart]:
    shown = dict(list(rows.items())[:CHART_ROWS])
    charts = []
    classes = list(dict.fromkeys(n for r in shown.values() for n in r.get("classes", {})))
    if classes:
        series = {
            name: [_value(r.get("classes", {}).get(n, {}).get("ap50")) for n in classes]
            for name, r in shown.items()
        }
        charts.append(bar_chart("AP50 by class", classes, series, "AP50"))
    lines = {name: reliability_line(r.get("confidence")) for name, r in shown.items()}
    known = {name: line for name, line in lines.items() if line is not None}
    if known:
        labels = ("mean score", "fraction of true boxes")
        charts.append(line_chart("Reliability of the scores", known, labels, diagonal=True))
    first, row = next(iter(rows.items()), ("", {}))
    curves = {
        n: (row["curve_recalls"], v["precision_curve"])
        for n, v in row.get("classes", {}).items()
        if "precision_curve" in v and v["labels"]
    }
    if curves:
        text = f"Precision and recall at IoU 0.5, {first}"
        charts.append(line_chart(text, curves, ("recall", "precision")))
    return charts


def _class_tables(rows: Rows) -> list[ReportTable]:
    keys = ("ap", "ap50", "recall_at_precision", "recall", "precision")
    cells = [
        [name, n, number(v["labels"]), *(_percent(v.get(k)) for k in keys)]
        for name, r in rows.items()
        for n, v in r.get("classes", {}).items()
    ]
    if not cells:
        return []
    precision = next(
        (r["required_precision"] for r in rows.values() if "required_precision" in r), None
    )
    reached = "recall at a precision" if precision is None else f"recall at {precision:g} precision"
    header = ("row", "class", "labels", "AP", "AP50", reached, "recall", "precision")
    return [ReportTable(header, cells, "By class", "in percent")]


def _confidence_cells(confidence: Mapping[str, Any]) -> list[str]:
    return [number(confidence.get(key)) for key in ("ece", "brier", "error_auroc")]


def _confidence_tables(rows: Rows) -> list[ReportTable]:
    cells = [
        [name, n, number(v["results"]), *_confidence_cells(v)]
        for name, r in rows.items()
        for n, v in r.get("confidence", {}).get("by_class", {}).items()
    ]
    header = ("row", "class", "boxes", *CONFIDENCE_COLUMNS)
    return [ReportTable(header, cells, "Confidence of the boxes")] if cells else []


def _projection_tables(result: Mapping[str, Any]) -> list[ReportTable]:
    cells = [
        [
            condition,
            _percent(scores["all"]["recall"]),
            number(scores["all"]["labels"]),
            _percent(scores["boxes"]["precision"]),
            number(scores["boxes"]["mean_score"]),
        ]
        for condition, scores in result.get("ground_projection", {}).items()
    ]
    header = ("condition", "objects found, %", "objects", "precision, %", "mean score")
    title = "Boxes projected onto the ground, within 30 m"
    return [ReportTable(header, cells, title)] if cells else []


def _percent(value: Any) -> str:
    return "-" if value is None else number(100.0 * value, 1)


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)
