"""Short form of evaluations for model cards."""

from __future__ import annotations

from multimodal_perception.training.recipe.figure_summary import summarize_figures


def detector_row() -> dict[str, object]:
    by_class = {"car": {"ap": 0.81234567, "labels": 9}, "bus": {"ap": None, "labels": 0}}
    return {
        "map": 0.41888888,
        "labels": 9,
        "by_class": by_class,
        "by_distance": {"0-15": {"map": 0.6, "by_class": by_class}},
        "velocity": {"car": {"moving": {"mean": 1.5, "median": 1.0}}, "cone": {"standing": {}}},
        "calibration": {"ece": 0.02, "bins": [{"boxes": 3}], "by_class": {"car": 0.1}},
        "latency_ms": {"p50": 12.0},
    }


def test_rows_of_a_detector_keep_their_numbers_and_the_map_of_each_table() -> None:
    summary = summarize_figures({"seeds": "1..2", "rows": {"lidar": detector_row()}})
    assert summary == {
        "seeds": "1..2",
        "rows": {
            "lidar": {
                "map": 0.4189,
                "labels": 9,
                "by_class": {"car": 0.8123},
                "by_distance": {"0-15": 0.6},
                "velocity": {"car": 1.5},
                "calibration": {"ece": 0.02},
            }
        },
    }


def test_other_evaluations_are_only_rounded() -> None:
    figures = {"rows": {"day": {"vehicle": {"ap": 0.123456}}}, "values": [1, 0.55555]}
    expected = {"rows": {"day": {"vehicle": {"ap": 0.1235}}}, "values": [1, 0.5555]}
    assert summarize_figures(figures) == expected
