"""Figures of the report: errors, relative robustness, margins and the weakest sensor, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol
from multimodal_perception.evaluation.occupancy import FREE, OCCUPIED, UNDECIDED
from multimodal_perception.evaluation.robustness.drive import FrameTruth
from multimodal_perception.evaluation.robustness.figures import combine, margin
from multimodal_perception.evaluation.robustness.report_page import (
    robustness_report,
    summary_table,
)
from multimodal_perception.evaluation.robustness.scores import (
    Decisions,
    SettingResult,
    changed_boxes,
)
from multimodal_perception.evaluation.robustness.study import CLEAN, Study, StudyResult
from multimodal_perception.evaluation.robustness.tasks import TaskOutput
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import OccupancyGrid, SegmentationMask
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES

PROTOCOL = NuScenesProtocol()


def pixels(severity: int, correct: int, changed: float = 0.0) -> SettingResult:
    """100 pixels of class 0, of which some are predicted as class 1: the mean IoU is correct / 100."""
    confusion = np.zeros((10, 10), np.int64)
    confusion[0, :2] = correct, 100 - correct
    decisions = {"segmentation": Decisions(changed, 1.0)}
    return SettingResult(severity, 1, 0.5, [], confusion, None, decisions, {"segmentation": True})


def study(name: str, target: str, *settings: SettingResult, **changes: str) -> StudyResult:
    severities = tuple(s.severity for s in settings if s.severity)
    kind = changes.get("kind", "corruption")
    task = changes.get("task", "")
    what = Study(kind, name, target, (target,), severities, task)  # type: ignore[arg-type]
    return StudyResult(what, list(settings), changes.get("reason", ""))


def drive(*studies: StudyResult, clean: int = 80) -> list[StudyResult]:
    return [StudyResult(Study("clean", CLEAN), [pixels(0, clean)]), *studies]


RESULTS = drive(
    study("fog", "front", pixels(1, 60, 0.2), pixels(5, 20, 0.6)),
    study("jpeg", "front", pixels(1, 80), pixels(5, 80)),
    study("fog", "rear", pixels(1, 80), pixels(5, 30)),
    study("fog", "front + rear", pixels(5, 10)),
    study("frozen", "rear", reason="the data has no earlier frames"),
    study("image_attack", "front", pixels(0, 40), pixels(2, 20, 0.3), pixels(4, 10, 0.5),
          kind="attack", task="segmentation"),
)  # fmt: skip


def test_errors_and_relative_robustness_are_means_over_severities_and_corruptions() -> None:
    result = combine([RESULTS], PROTOCOL)
    figures = result["tasks"]["segmentation"]
    assert figures["clean"]["quality"] == pytest.approx(0.8) and figures["reference"] == "labels"
    fog, jpeg, rear = figures["studies"][:3]
    assert fog["ce"] == pytest.approx((0.4 + 0.8) / 2)
    assert fog["relative_robustness"] == pytest.approx((0.75 + 0.25) / 2)
    # Pairs and attacks do not enter the means of single sensors.
    assert figures["mce"] == pytest.approx((0.6 + 0.2 + 0.45) / 3)
    assert figures["mean_relative_robustness"] == pytest.approx((0.5 + 1.0 + 0.6875) / 3)
    assert jpeg["relative_robustness"] == 1.0 and rear["relative_robustness"] == 0.6875
    assert figures["weakest_sensor"] == "rear"  # the front camera has (0.5 + 1) / 2
    assert figures["sensors"]["front"]["worst_corruption"] == "fog"
    assert result["not_applicable"] == {"frozen rear": "the data has no earlier frames"}
    assert result["seconds_per_frame"] == 0.5


def test_an_attack_is_relative_to_the_clean_run_of_its_own_frames() -> None:
    attack = combine([RESULTS], PROTOCOL)["tasks"]["segmentation"]["studies"][-1]
    assert attack["baseline"] == pytest.approx(0.4)
    assert attack["severities"]["2"]["relative"] == pytest.approx(0.5)
    # 2/255 change 30 % of the decisions, 8/255 50 %; severity k of an attack is 2^(k - 1) / 255.
    assert attack["margins"]["10%"] == pytest.approx(2.0 / 3.0)
    assert attack["margins"]["50%"] == pytest.approx(8.0)


def test_the_error_relative_to_a_reference_is_that_of_imagenet_c() -> None:
    reference = combine([drive(study("fog", "front", pixels(1, 80), pixels(5, 60)))], PROTOCOL)
    result = combine([RESULTS], PROTOCOL, reference)
    # Only fog of the front camera is in both: (0.4 + 0.8) / (0.2 + 0.4).
    assert result["tasks"]["segmentation"]["relative_mce"] == pytest.approx(2.0)


def test_counts_of_drives_are_added_before_the_figures() -> None:
    other = drive(study("fog", "front", pixels(1, 100), pixels(5, 100)), clean=100)
    figures = combine([RESULTS, other], PROTOCOL)["tasks"]["segmentation"]
    fog = figures["studies"][0]
    assert fog["severities"]["1"]["quality"] == pytest.approx(0.8)
    assert fog["severities"]["1"]["relative"] == pytest.approx(0.8 / 0.9)
    # jpeg was only made on the first drive, so its baseline is that drive's clean run.
    assert figures["studies"][1]["baseline"] == pytest.approx(0.8)


def test_the_page_contains_the_weakest_sensor_and_what_was_left_out() -> None:
    result = combine([[replace_labels(r) for r in RESULTS]], PROTOCOL)
    result |= {"drives": ["d"], "set": "standard", "studies": 6, "processed_frames": 9}
    page = robustness_report("Robustness", result, [], "")
    assert page.subtitle.startswith("1 frames of 1 drives, standard set")
    assert "without labels of segmentation: consistency with the clean run" in page.subtitle
    assert page.summary.rows[0][-1] == "rear (0.688, worst: fog)"
    assert "not correctness" in page.summary.note
    titles = [t.title for t in page.tables]
    assert "Not applicable to this data" in titles and "segmentation: pairs" in titles
    assert "segmentation: empirical margins" in titles and len(page.charts) >= 4
    assert "correctness" not in summary_table(combine([RESULTS], PROTOCOL)).note


def replace_labels(result: StudyResult) -> StudyResult:
    settings = [replace(s, labelled={"segmentation": False}) for s in result.settings]
    return replace(result, settings=settings)


@pytest.mark.parametrize(
    ("rates", "level", "expected"),
    [
        ([0.0, 0.2, 0.4], 0.1, 3.0),  # half of the way from 2 to 4
        ([0.2, 0.4, 0.6], 0.1, 1.0),  # half of the way from 0 to 2
        ([0.0, 0.0, 0.05], 0.1, math.inf),
        ([0.5, 0.0, 0.6], 0.5, 2.0),
        ([0.1, 0.1, 0.1], 0.1, 2.0),
    ],
)
def test_margins_are_interpolated(rates: list[float], level: float, expected: float) -> None:
    assert margin([2.0, 4.0, 8.0], rates, level) == pytest.approx(expected)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
def test_a_margin_is_within_the_tested_sizes_and_grows_with_the_level(rates: list[float]) -> None:
    sizes = [float(2**k) for k in range(len(rates))]
    low, high = margin(sizes, rates, 0.1), margin(sizes, rates, 0.5)
    assert low <= high
    assert 0.0 <= low <= sizes[-1] if max(rates) >= 0.1 else math.isinf(low)


def boxes(*rows: tuple[float, float, str, float]) -> Boxes3D:
    """Boxes at x y with a class and a score."""
    array = np.array([(x, y, 1, 4, 2, 1.5, 0) for x, y, _, _ in rows], np.float32).reshape(-1, 7)
    names = Boxes3D.empty(0, "").class_names
    labels = np.array([names.index(name) for _, _, name, _ in rows], np.int64)
    scores = np.array([score for *_, score in rows], np.float32)
    return Boxes3D(0, "base_link", array, scores, labels)


def test_changed_decisions_are_lost_new_and_reclassified_objects() -> None:
    clean = boxes(
        (10, 0, "car", 0.9), (20, 0, "car", 0.5), (5, 5, "pedestrian", 0.6), (30, 0, "car", 0.1)
    )
    assert changed_boxes(clean, clean) == (0, 3)
    moved = boxes((11, 0, "car", 0.4), (20, 2.5, "car", 0.5), (5, 5, "car", 0.6))
    # One object is kept; two are lost and two are new.
    assert changed_boxes(moved, clean) == (4, 5)
    assert changed_boxes(boxes(), clean) == (3, 3) and changed_boxes(boxes(), boxes()) == (0, 0)


def test_without_labels_the_reference_is_the_clean_run() -> None:
    names = SEGMENTATION_CLASSES
    mask = SegmentationMask("camera", 0, np.zeros((4, 4), np.uint8), names)
    half = SegmentationMask(
        "camera", 0, np.repeat([[0], [0], [1], [1]], 4, 1).astype(np.uint8), names
    )
    grid = OccupancyGrid(0, "base_link", 1.0, (-2.0, -2.0), *occupancy(FREE))
    clean = TaskOutput(boxes((10, 0, "car", 0.9)), {"camera": mask}, grid)
    other = TaskOutput(
        boxes(), {"camera": half}, replace(grid, free=grid.occupied, occupied=grid.free)
    )
    result = SettingResult(1)
    result.add(other, clean, FrameTruth(), SensorFrame(0))
    assert result.labelled == dict.fromkeys(("detection", "segmentation", "occupancy"), False)
    assert result.qualities(PROTOCOL) == {"detection": 0.0, "segmentation": 0.5, "occupancy": 0.0}
    assert {t: d.rate for t, d in result.decisions.items()} == {
        "detection": 1.0,
        "segmentation": 0.5,
        "occupancy": 1.0,
    }
    same = SettingResult(0)
    same.add(clean, clean, FrameTruth(), SensorFrame(0))
    assert same.qualities(PROTOCOL) == {"detection": 1.0, "segmentation": 1.0, "occupancy": 1.0}
    # A missing mask counts as the last class everywhere.
    lost = SettingResult(5)
    lost.add(replace(clean, masks={}), clean, FrameTruth(), SensorFrame(0))
    assert lost.qualities(PROTOCOL)["segmentation"] == 0.0
    assert lost.decisions["segmentation"].rate == 1.0


def test_with_labels_unobserved_cells_are_wrong() -> None:
    free, occupied = occupancy(FREE)
    free[:2] = 0.0  # the upper half is not observed
    grid = OccupancyGrid(0, "base_link", 1.0, (-2.0, -2.0), free, occupied)
    output = TaskOutput(None, {}, grid)
    truth = FrameTruth(true_state=lambda x, y: np.full(len(x), FREE, np.int8))
    result = SettingResult(1)
    result.add(output, output, truth, SensorFrame(0))
    assert result.labelled == {"occupancy": True}
    assert result.qualities(PROTOCOL) == {"occupancy": 0.5}


def occupancy(state: int) -> tuple[np.ndarray, np.ndarray]:
    """Masses of free and occupied (4, 4) of a grid in which all cells have one state."""
    assert state in (FREE, OCCUPIED, UNDECIDED)
    one, none = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
    return (one, none) if state == FREE else (none, one)
