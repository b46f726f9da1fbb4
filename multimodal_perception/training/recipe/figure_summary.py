"""Short form of an evaluation for a model card, which has a maximum size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Tables of a row of a detector's evaluation, and the value that is kept of each of their entries.
KEPT_TABLES = {
    "by_class": "ap",
    "by_distance": "map",
    "by_points": "map",
    "by_condition": "map",
    "by_view": "map",
    "class_sets": "map",
    "velocity": "moving",
}
# Groups of which only the numbers, without their tables by class and by score, are kept.
KEPT_GROUPS = ("calibration", "images_within_30m")
NUMBERS = ("map", "nds", "ate", "ase", "aoe", "labels", "boxes")
# Complete evaluations are in the output folder of the recipe.
DIGITS = 4


def summarize_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one evaluation with four decimals, those of a detector without detailed tables.

    figures: content of the JSON file that an evaluation wrote. A table of rows whose entries have
    `map` and `by_class` is that of a detector: of each row the numbers, the AP by class, and the mAP by
    distance, points, condition, view and class set remain. Other evaluations are kept as they are.
    """
    rows = figures.get("rows")
    if isinstance(rows, Mapping) and all(_is_detector_row(row) for row in rows.values()):
        figures = {**figures, "rows": {name: _summarize_row(row) for name, row in rows.items()}}
    rounded: dict[str, Any] = _round(figures)
    return rounded


def _is_detector_row(row: Any) -> bool:
    return isinstance(row, Mapping) and "map" in row and isinstance(row.get("by_class"), Mapping)


def _summarize_row(row: Mapping[str, Any]) -> dict[str, Any]:
    result = {name: row[name] for name in NUMBERS if name in row}
    for name, kept in KEPT_TABLES.items():
        entries = {key: _mean(value.get(kept)) for key, value in row.get(name, {}).items()}
        # Entries without a value, as classes without labels, are left out.
        if filled := {key: value for key, value in entries.items() if value is not None}:
            result[name] = filled
    for name in KEPT_GROUPS:
        if name in row:
            result[name] = {k: v for k, v in row[name].items() if isinstance(v, int | float)}
    return result


def _mean(value: Any) -> Any:
    """The mean of a distribution, as that of the velocity errors; other values as they are."""
    return value.get("mean") if isinstance(value, Mapping) else value


def _round(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _round(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_round(v) for v in value]
    return round(value, DIGITS) if isinstance(value, float) else value
