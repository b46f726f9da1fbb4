from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.criteria import check_criteria, load_criteria

RESULT: dict[str, Any] = {
    "recall_1m": 0.8,
    "false_positives_per_frame": 1.5,
    "by_class": {"car": {"recall_1m": 0.9}},
    "nuscenes": {
        "map": 0.6,
        "by_class": {"car": {"ap": 0.7, "ave": math.nan}},
        "by_distance": {"0-15": {"map": 0.75, "by_class": {"car": {"ap": 0.8}}}},
    },
    "tracking": {"mota": 0.5, "id_switches": 3},
    "rows": {"model a.b": {"miou": 0.45, "iou": {"road": 0.9, "person": None}}},
}


def check(tmp_path: Path, *lines: str) -> list[tuple[bool, float]]:
    path = tmp_path / "criteria.yaml"
    path.write_text("criteria:\n" + "".join(f"  - {line}\n" for line in lines))
    results = check_criteria(RESULT, load_criteria(path), str(path))
    return [(r.passed, r.value) for r in results]


def test_limits_by_figure_class_and_distance(tmp_path: Path) -> None:
    assert check(
        tmp_path,
        "{figure: recall_1m, min: 0.8}",
        "{figure: recall_1m, min: 0.81}",
        "{figure: false_positives_per_frame, max: 1.5}",
        "{figure: map, min: 0.5, max: 0.7}",
        "{figure: map, distance: 0-15, min: 0.8}",
        "{figure: ap, class: car, min: 0.7}",
        "{figure: ap, class: car, distance: 0-15, min: 0.7}",
        "{figure: recall_1m, class: car, max: 0.5}",
        "{figure: id_switches, max: 2}",
        "{figure: miou, at: rows.model a.b, min: 0.4}",
        "{figure: iou, class: road, at: rows.model a.b, min: 0.95}",
    ) == [
        (True, 0.8),
        (False, 0.8),
        (True, 1.5),
        (True, 0.6),
        (False, 0.75),
        (True, 0.7),
        (True, 0.8),
        (False, 0.9),
        (False, 3.0),
        (True, 0.45),
        (False, 0.9),
    ]


def test_a_figure_that_was_not_measured_fails(tmp_path: Path) -> None:
    results = check(
        tmp_path,
        "{figure: ave, class: car, max: 9}",
        "{figure: iou, class: person, at: rows.model a.b, min: 0}",
    )
    assert [passed for passed, _ in results] == [False, False]
    assert all(math.isnan(value) for _, value in results)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("criteria: []", "1 to 1000 entries"),
        ("criteria:\n  - 3", "criteria"),
        ("criteria:\n  - {min: 1}", "figure"),
        ("criteria:\n  - {figure: map}", "needs min or max"),
        ("criteria:\n  - {figure: map, min: .nan}", "finite"),
        ("criteria:\n  - {figure: map, minimum: 1}", "minimum"),
        ("criteria:\n  - {figure: map, min: high}", "min"),
        ("criteria:\n  - {figure: map, min: 1, class: [a]}", "class"),
        ("limits: []", "limits"),
        ("criteria:\n  - {figure: recal, min: 1}", "no such figure; figures there: .*recall_1m"),
        ("criteria:\n  - {figure: ap, class: tram, min: 1}", "no such figure"),
        ("criteria:\n  - {figure: map, distance: 0-99, min: 1}", "no such figure"),
        ("criteria:\n  - {figure: miou, at: rows.other, min: 1}", "no such figure"),
        ("criteria:\n  - {figure: rows, min: 1}", "no such figure"),
    ],
)
def test_wrong_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "criteria.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        check_criteria(RESULT, load_criteria(path), str(path))
    assert "criteria.yaml" in str(error.value)
