"""Report of `evaluate detections` and `evaluate tracking`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_perception.evaluation.error_analysis import CURVE_RECALLS
from multimodal_perception.evaluation.html_report import (
    Report,
    ReportChart,
    ReportPicture,
    ReportTable,
    installed_versions,
    number,
)
from multimodal_perception.evaluation.recorded_drives import WorstFrame
from multimodal_perception.evaluation.report_charts import (
    bar_chart,
    histogram,
    line_chart,
    matrix_chart,
)
from multimodal_perception.visualization.error_view import LEGEND

# Figures of the summary by their path in the result.
FIGURES = (
    ("mAP", ("nuscenes", "map")),
    ("NDS", ("nuscenes", "nds")),
    ("recall at 1 m", ("recall_1m",)),
    ("precision at 1 m", ("precision_1m",)),
    ("false boxes per frame", ("false_positives_per_frame",)),
    ("translation error ATE, m", ("nuscenes", "ate")),
    ("orientation error AOE, rad", ("nuscenes", "aoe")),
    ("velocity error AVE, m/s", ("nuscenes", "ave")),
    ("calibration error ECE", ("nuscenes", "calibration", "ece")),
    ("calibration error D-ECE", ("nuscenes", "calibration", "d_ece")),
    ("Brier score", ("nuscenes", "calibration", "brier")),
    ("AUROC of wrong boxes", ("nuscenes", "calibration", "error_auroc")),
    ("MOTA", ("tracking", "mota")),
    ("MOTP, m", ("tracking", "motp_m")),
    ("identity switches", ("tracking", "id_switches")),
    ("latency p50, ms", ("latency_ms", "p50")),
    ("latency p95, ms", ("latency_ms", "p95")),
    ("frames", ("frames",)),
    ("labels", ("nuscenes", "labels")),
)


def detection_report(
    title: str,
    result: Mapping[str, Any],
    worst: Sequence[WorstFrame],
    configuration: str,
    other: Mapping[str, Any] | None = None,
    criteria: ReportTable | None = None,
) -> Report:
    """The page of a result of recorded_drives.combine. other: a result to compare with."""
    names = ", ".join(d["name"] for d in result.get("drives", [])[:8])
    where = "inside the camera images" if result.get("labels_in_view") else "all around the vehicle"
    return Report(
        title,
        f"{names}; {result['frames']} frames, detector {result['detector']}; false boxes count {where}",
        compare_table(FIGURES, result, other),
        _charts(result, other),
        _tables(result, other),
        [ReportPicture(w.caption, w.picture) for w in worst],
        f"The {len(worst)} worst frames",
        LEGEND,
        criteria,
        configuration,
        installed_versions(),
    )


def compare_table(
    figures: Sequence[tuple[str, tuple[str, ...]]],
    result: Mapping[str, Any],
    other: Mapping[str, Any] | None,
) -> ReportTable:
    """Figures of one result, or of two with their difference. Figures that neither has are left out."""
    rows = []
    for name, path in figures:
        mine, theirs = _at(result, path), _at(other or {}, path)
        if mine is None and theirs is None:
            continue
        row = [name, number(mine)]
        if other is not None:
            both = mine is not None and theirs is not None
            row += [number(theirs), number(mine - theirs) if both else "-"]
        rows.append(row)
    columns = ("figure", "value") if other is None else ("figure", "this", "other", "difference")
    return ReportTable(columns, rows)


def _charts(result: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[ReportChart]:
    charts = []
    mine, theirs = result.get("nuscenes", {}), (other or {}).get("nuscenes", {})
    if mine.get("curves"):
        lines, others = _curves(mine), _curves(theirs)
        labels = ("recall", "precision")
        text = "Precision and recall by class at 2 m"
        charts.append(line_chart(_title(text, other), lines, labels, others))
    if mine.get("calibration"):
        lines, others = _reliability(mine), _reliability(theirs)
        labels = ("mean score", "fraction of true boxes")
        text = "Reliability of the scores"
        charts.append(line_chart(_title(text, other), lines, labels, others, diagonal=True))
    bands = mine.get("by_distance", {})
    if bands:
        classes = [n for n, c in mine["by_class"].items() if c["labels"]]
        series = {n: [_ap(b, n) for b in bands.values()] for n in classes}
        charts.append(bar_chart("AP by class and distance, m", list(bands), series, "AP"))
    if mine.get("by_class"):
        names = [n for n, c in mine["by_class"].items() if c["labels"]]
        series = {"this": [_value(mine["by_class"][n]["ap"]) for n in names]}
        if theirs.get("by_class"):
            series["other"] = [_value(theirs["by_class"].get(n, {}).get("ap")) for n in names]
        charts.append(bar_chart("AP by class", names, series, "AP"))
    if mine.get("confusion"):
        c = mine["confusion"]
        charts.append(
            matrix_chart(
                f"Confusion of boxes with a score of at least {c['min_score']:g}",
                c["rows"],
                c["columns"],
                c["counts"],
            )
        )
    times = {"this": result.get("frame_ms", [])}
    if other is not None and other.get("frame_ms"):
        times["other"] = other["frame_ms"]
    if times["this"]:
        charts.append(histogram("Latency of the pipeline", times, "milliseconds per frame"))
    return charts


def _tables(result: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[ReportTable]:
    tables = []
    metrics = result.get("nuscenes", {})
    columns = ("class", "labels", "AP", "ATE, m", "ASE", "AOE, rad", "AVE, m/s")
    if metrics.get("by_class"):
        rows = [
            [n, str(c["labels"]), *(number(c[k]) for k in ("ap", "ate", "ase", "aoe", "ave"))]
            for n, c in metrics["by_class"].items()
        ]
        tables.append(ReportTable(columns, rows, "By class"))
    calibration = metrics.get("calibration", {})
    if calibration.get("error_auroc_by_class"):
        keys = ("by_class", "brier_by_class", "error_auroc_by_class")
        rows = [
            [n, *(number(calibration.get(k, {}).get(n)) for k in keys)]
            for n in calibration["error_auroc_by_class"]
        ]
        names_of_figures = ("class", "ECE", "Brier score", "AUROC of wrong boxes")
        tables.append(ReportTable(names_of_figures, rows, "Confidence of the boxes"))
    bands = metrics.get("by_distance", {})
    if bands:
        names = list(metrics["by_class"])
        rows = [
            [f"{band} m", str(b["labels"]), number(b["map"]), *(number(_ap(b, n)) for n in names)]
            for band, b in bands.items()
        ]
        header = ("distance", "labels", "mAP", *(f"AP {n}" for n in names))
        tables.append(ReportTable(header, rows, "By distance"))
    stages = result.get("stage_ms", {})
    if stages:
        rows = [[s, number(v["p50"], 1), number(v["p95"], 1)] for s, v in stages.items()]
        tables.append(ReportTable(("stage", "p50, ms", "p95, ms"), rows, "Time by stage"))
    tracking = result.get("tracking", {})
    if tracking:
        rows = [[k, number(v)] for k, v in tracking.items() if not isinstance(v, Mapping)]
        tables.append(ReportTable(("figure", "value"), rows, "Tracking"))
    drives = result.get("drives", [])
    if len(drives) > 1:
        rows = [[d["name"], str(d["frames"])] for d in drives]
        tables.append(ReportTable(("drive", "frames"), rows, "Drives"))
    return tables


def _title(text: str, other: Mapping[str, Any] | None) -> str:
    return text if other is None else f"{text} (dashed: other)"


def _curves(metrics: Mapping[str, Any]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    return {n: (CURVE_RECALLS.tolist(), y) for n, y in metrics.get("curves", {}).items()}


def _reliability(metrics: Mapping[str, Any]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    bins = metrics.get("calibration", {}).get("bins", [])
    if not bins:
        return {}
    return {"all classes": ([b["mean_score"] for b in bins], [b["precision"] for b in bins])}


def _ap(metrics: Mapping[str, Any], name: str) -> float:
    return _value(metrics.get("by_class", {}).get(name, {}).get("ap"))


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _at(result: Mapping[str, Any], path: Sequence[str]) -> Any:
    node: Any = result
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, (int, float)) else None
