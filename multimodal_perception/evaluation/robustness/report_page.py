"""The page of a robustness report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_perception.evaluation.html_report import (
    Report,
    ReportChart,
    ReportPicture,
    ReportTable,
    installed_versions,
    number,
)
from multimodal_perception.evaluation.report_charts import bar_chart, severity_chart
from multimodal_perception.evaluation.robustness.catalogue import CORRUPTIONS
from multimodal_perception.evaluation.robustness.figures import MARGIN_RATES, PAIR, is_single
from multimodal_perception.evaluation.robustness.scores import DECISION_DISTANCE_M, DECISION_SCORE
from multimodal_perception.evaluation.robustness.study import ATTACKS

QUALITY = {
    "detection": "mAP",
    "segmentation": "mIoU",
    "occupancy": "mean IoU of free and occupied cells",
}
NO_LABELS = "Without labels, quality is the consistency with the clean run, not correctness."


def robustness_report(
    title: str,
    result: Mapping[str, Any],
    pictures: Sequence[ReportPicture],
    configuration: str,
    other: Mapping[str, Any] | None = None,
    criteria: ReportTable | None = None,
) -> Report:
    """The page of a result of figures.combine. other: the reference, see there."""
    subtitle = f"{result['frames']} frames of {len(result['drives'])} drives, {result['set']} set"
    unlabelled = [t for t, f in result["tasks"].items() if f["reference"] != "labels"]
    if unlabelled:
        subtitle += f"; without labels of {', '.join(unlabelled)}: consistency with the clean run"
    charts: list[ReportChart] = []
    tables: list[ReportTable] = []
    for task, figures in result["tasks"].items():
        charts += _charts(task, figures)
        tables += _tables(task, figures)
    tables += [_definitions(result), _times(result)]
    if result["not_applicable"]:
        rows = sorted(result["not_applicable"].items())
        tables.append(ReportTable(("study", "reason"), rows, "Not applicable to this data"))
    return Report(
        title,
        subtitle,
        summary_table(result, other),
        charts,
        tables,
        pictures,
        "Clean and changed readings",
        "Left: clean, right: highest severity. Of attacked images, the third picture is the difference, "
        "amplified 8 times.",
        criteria,
        configuration,
        installed_versions(),
    )


def summary_table(result: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> ReportTable:
    """One row for each task."""
    columns = [
        "task",
        "quality",
        "clean",
        "reference",
        "mCE",
        "relative robustness",
        "weakest sensor",
    ]
    if other is not None:
        columns.append("mCE relative to other")
    rows = []
    for task, figures in result["tasks"].items():
        row = [
            task,
            QUALITY[task],
            number(figures["clean"]["quality"]),
            figures["reference"],
            number(figures["mce"]),
            number(figures["mean_relative_robustness"]),
            weakest_text(figures),
        ]
        if other is not None:
            row.append(number(figures.get("relative_mce")))
        rows.append(row)
    notes = [
        "mCE: mean over corruptions and severities of 1 - quality (lower is better). Relative "
        "robustness: quality divided by that of the clean run (higher is better). Both are over "
        "corruptions of single sensors. Weakest sensor: that with the lowest relative robustness."
    ]
    if any(f["reference"] != "labels" for f in result["tasks"].values()):
        notes.append(NO_LABELS)
    return ReportTable(columns, rows, note=" ".join(notes))


def weakest_text(figures: Mapping[str, Any]) -> str:
    """The weakest sensor with its relative robustness and its worst corruption."""
    name = figures["weakest_sensor"]
    if name is None:
        return "-"
    sensor = figures["sensors"][name]
    return f"{name} ({number(sensor['relative_robustness'])}, worst: {sensor['worst_corruption']})"


def _charts(task: str, figures: Mapping[str, Any]) -> list[ReportChart]:
    studies = [s for s in figures["studies"] if s["kind"] == "corruption"]
    label = f"relative {task} quality"
    names = list(figures["sensors"])
    charts = [
        severity_chart(
            f"{task}: mean over the corruptions of each sensor",
            {n: _mean_line([s for s in studies if s["target"] == n]) for n in names},
            label,
        )
    ]
    targets = list(dict.fromkeys(s["target"] for s in studies if PAIR not in s["target"]))
    for target in targets:
        lines = {s["name"]: _line(s) for s in studies if s["target"] == target}
        charts.append(severity_chart(f"{task}: corruptions of {target}", lines, label))
    attacks = [s for s in figures["studies"] if s["kind"] == "attack"]
    if attacks:
        lines = {f"{s['name']} {s['target']}": _line(s) for s in attacks}
        charts.append(severity_chart(f"{task}: attacks", lines, label))
    pairs = [s for s in studies if PAIR in s["target"]]
    if pairs:
        groups = list(dict.fromkeys(s["target"] for s in pairs))
        kinds = list(dict.fromkeys(s["name"] for s in pairs))
        found = {(s["target"], s["name"]): s["relative_robustness"] for s in pairs}
        series = {k: [found.get((g, k), math.nan) for g in groups] for k in kinds}
        charts.append(bar_chart(f"{task}: pairs of sensors", groups, series, label))
    return charts


def _line(study: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    points = {0: 1.0} | {int(k): v["relative"] for k, v in study["severities"].items()}
    return [float(k) for k in points], list(points.values())


def _mean_line(studies: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean relative quality over studies with the same severities."""
    severities = sorted({int(k) for s in studies for k in s["severities"]})
    values = [1.0]
    for severity in severities:
        own = [
            s["severities"][str(severity)]["relative"]
            for s in studies
            if str(severity) in s["severities"]
        ]
        known = [v for v in own if v == v]
        values.append(sum(known) / len(known) if known else math.nan)
    return [0.0, *map(float, severities)], values


def _tables(task: str, figures: Mapping[str, Any]) -> list[ReportTable]:
    studies = figures["studies"]
    single = [s for s in studies if s["kind"] == "corruption" and PAIR not in s["target"]]
    tables = [_sensor_table(task, figures)]
    targets = list(dict.fromkeys(s["target"] for s in single))
    names = list(dict.fromkeys(s["name"] for s in single))
    found = {(s["name"], s["target"]): s["relative_robustness"] for s in single}
    rows = [[n, *(number(found.get((n, t))) for t in targets)] for n in names]
    note = "Mean over the severities. -: not for this sensor, or the task does not use it."
    tables.append(ReportTable(("corruption", *targets), rows, f"{task}: relative robustness", note))
    tables.append(_detail_table(f"{task}: all severities", single))
    pairs = [s for s in studies if PAIR in s["target"]]
    if pairs:
        tables.append(_detail_table(f"{task}: pairs", pairs))
    tables.append(_margin_table(task, [s for s in studies if is_single(s["target"])]))
    return tables


def _sensor_table(task: str, figures: Mapping[str, Any]) -> ReportTable:
    columns = ("sensor", "CE", "relative robustness", "worst corruption", "attack margin")
    rows = []
    for name, sensor in figures["sensors"].items():
        margins = [
            f"{attack}: {_margin(values['10%'])}"
            for attack, values in sensor["attack_margins"].items()
        ]
        rows.append(
            [
                name,
                number(sensor["ce"]),
                number(sensor["relative_robustness"]),
                sensor["worst_corruption"] or "-",
                "; ".join(margins) or "-",
            ]
        )
    note = "Attack margin: smallest size of the attack at which 10 % of the decisions change."
    return ReportTable(columns, rows, f"{task}: sensors", note)


def _detail_table(title: str, studies: Sequence[Mapping[str, Any]]) -> ReportTable:
    columns = (
        "corruption",
        "sensor",
        "severity",
        "value",
        "quality",
        "relative",
        "changed decisions",
    )
    rows = [
        [
            study["name"],
            study["target"],
            severity,
            f"{values['value']:g} {study['unit']}",
            number(values["quality"]),
            number(values["relative"]),
            number(values["changed_decisions"]),
        ]
        for study in studies
        for severity, values in study["severities"].items()
    ]
    return ReportTable(columns, rows, title)


def _margin_table(task: str, studies: Sequence[Mapping[str, Any]]) -> ReportTable:
    levels = [f"{100 * r:g}%" for r in MARGIN_RATES]
    rows = [
        [
            study["name"],
            study["target"],
            study["unit"],
            *(_margin(study["margins"][level]) for level in levels),
            f"{list(study['severities'].values())[-1]['value']:g}",
            study["method"] or "-",
        ]
        for study in studies
        if not math.isnan(study["margins"][levels[0]])
    ]
    note = (
        "Smallest size at which this fraction of the decisions differs from the clean run, "
        "interpolated; none: not reached at the largest size. Decisions: objects with a score of at "
        f"least {DECISION_SCORE:g} (the same object within {DECISION_DISTANCE_M:g} m), classes of "
        "pixels, states of cells. Attacks change the first frame of each drive; a search gives an upper "
        "bound of the margin. Sizes of attacks on images are in 1/255 of the range of values of a "
        "camera image, and of the range between the contrast limits of a thermal image."
    )
    columns = (
        "change",
        "sensor",
        "unit",
        *(f"{level} changed" for level in levels),
        "largest",
        "method",
    )
    return ReportTable(columns, rows, f"{task}: empirical margins", note)


def _margin(value: float | None) -> str:
    return "none" if value is None or math.isinf(value) else f"{value:.3g}"


def _definitions(result: Mapping[str, Any]) -> ReportTable:
    used = {s["name"] for f in result["tasks"].values() for s in f["studies"]}
    rows = [
        [c.name, c.unit, ", ".join(f"{v:g}" for v in c.values), c.source]
        for c in CORRUPTIONS.values()
        if c.name in used
    ]
    rows += [
        [
            name,
            unit,
            ", ".join(f"{v:g}" for v in sizes),
            "Madry et al. 2018; Andriushchenko et al. 2020",
        ]
        for name, (unit, sizes) in ATTACKS.items()
        if name in used
    ]
    return ReportTable(
        ("corruption", "unit", "severities 1 to 5", "definition"), rows, "Definitions"
    )


def _times(result: Mapping[str, Any]) -> ReportTable:
    note = "Study: a corruption or an attack, in all its severities, of one sensor, pair or group."
    rows = [
        ["tasks of a clean frame, seconds", number(result["seconds_per_frame"])],
        ["studies of each drive", str(result["studies"])],
        ["processed frames", str(result["processed_frames"])],
    ]
    return ReportTable(("figure", "value"), rows, "Effort", note)
