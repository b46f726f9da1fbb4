"""Sensors whose opinions are wrong: they are named within 2 s, lose weight, and recover."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pytest

from multimodal_perception.box_evidence import GROUPS, NOTHING, BoxEvidence
from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.opinions import Opinions, vacuous
from multimodal_perception.perception import Level, StageStatus
from multimodal_perception.sensor_reliability import EvidenceMonitor

PERIOD_NS = 100_000_000
OBJECTS = 4
MODALITY_OF = {
    "lidar": "lidar", "front": "camera", "left": "camera", "thermal": "thermal",
    "ultrasonic": "ultrasonic",
}  # fmt: skip
ALL = tuple(MODALITY_OF)


def opinion(rng: np.random.Generator, group: int, uncertainty: float = 0.2) -> Opinions:
    """Noisy opinions with most of their belief in a group."""
    belief = rng.uniform(0, 0.1 / len(GROUPS), (OBJECTS, len(GROUPS)))
    belief[:, group] += 1.0 - uncertainty - belief.sum(axis=1)
    return Opinions(belief, 1.0 - belief.sum(axis=1))


def boxes_of(
    step: int,
    wrong: Collection[str] = (),
    sources: Collection[str] = ALL,
    unobserved: Collection[str] = (),
    tracked: bool = True,
) -> Boxes3D:
    """Tracked cars; the sources `wrong` have their belief in nothing."""
    rng = np.random.default_rng(step)
    opinions: Mapping[str, Opinions] = {
        name: vacuous(OBJECTS, len(GROUPS))
        if name in unobserved
        else opinion(rng, NOTHING if name in wrong else 0)
        for name in sources
    }
    weights = dict.fromkeys(sources, 0.9)
    boxes = np.tile(np.array([10, 0, 0.8, 4, 2, 1.6, 0], np.float32), (OBJECTS, 1))
    return Boxes3D(
        step * PERIOD_NS,
        "base_link",
        boxes,
        np.full(OBJECTS, 0.8, np.float32),
        np.full(OBJECTS, CLASS_NAMES.index("car")),
        track_ids=np.arange(OBJECTS) if tracked else None,
        evidence=BoxEvidence.combined(opinions, MODALITY_OF, weights, OBJECTS),
    )


def run(monitor: EvidenceMonitor, steps: range, **changes: Collection[str]) -> StageStatus:
    for step in steps:
        monitor.update(boxes_of(step, **changes))  # type: ignore[arg-type]
    status = monitor.evidence_status
    assert status is not None
    return status


def combined(boxes: Boxes3D) -> BoxEvidence:
    assert boxes.evidence is not None
    return boxes.evidence


@pytest.mark.parametrize("name", ALL)
def test_a_single_wrong_sensor_is_named_within_2_s_and_recovers(name: str) -> None:
    monitor = EvidenceMonitor()
    assert run(monitor, range(20)).level is Level.OK
    # 1 s, because the diagnostics are published once a second.
    status = run(monitor, range(20, 30), wrong=[name])
    assert status.level is Level.WARN
    assert name in status.message
    assert all(other not in status.message for other in ALL if other != name)
    reliability = float(status.values[f"reliability.{name}"])  # type: ignore[arg-type]
    assert reliability < 0.5
    assert f"weight {reliability:.2f}" in status.message
    assert all(status.values[f"reliability.{other}"] == 1.0 for other in ALL if other != name)
    # Its opinions count less: the conflict is smaller than with the first frame of the fault.
    before = combined(EvidenceMonitor().update(boxes_of(30, wrong=[name])))
    after = combined(monitor.update(boxes_of(30, wrong=[name])))
    assert (after.conflict < before.conflict).all()
    assert after.weights[after.sources.index(name)] == pytest.approx(0.9 * reliability)
    status = run(monitor, range(31, 60))
    assert status.level is Level.OK and status.message == "ok"
    assert status.values[f"reliability.{name}"] == 1.0


def test_a_wrong_camera_of_two_sensors_is_named_by_the_confirmed_tracks() -> None:
    monitor, sources = EvidenceMonitor(), ["lidar", "front"]
    # Tracks are confirmed after a second; before that nothing is compared.
    status = run(monitor, range(10), wrong=["front"], sources=sources)
    assert status.level is Level.OK and status.values["error.front"] == 0.0
    status = run(monitor, range(10, 22), wrong=["front"], sources=sources)
    assert "front" in status.message and "lidar" not in status.message


def test_sensors_without_an_opinion_lose_no_weight_and_are_no_reference() -> None:
    monitor = EvidenceMonitor()
    unobserved = ["front", "left", "thermal", "ultrasonic"]
    status = run(monitor, range(30), unobserved=unobserved)
    assert status.level is Level.OK
    assert all(status.values[f"reliability.{n}"] == 1.0 for n in ALL)
    assert status.values["mean_uncertainty.front"] == 1.0
    assert float(status.values["mean_uncertainty.lidar"]) < 0.3  # type: ignore[arg-type]


def test_sensors_that_disagree_without_a_majority_are_not_blamed() -> None:
    """Two against two, without tracks: which ones are wrong is not known."""
    monitor = EvidenceMonitor()
    for step in range(30):
        sources = ["lidar", "front", "left", "thermal"]
        monitor.update(boxes_of(step, ["lidar", "front"], sources, tracked=False))
    status = monitor.evidence_status
    assert status is not None
    named = {name for name in ALL if name in status.message}
    assert not named or named == {"lidar", "front", "left", "thermal"}


def test_stamps_that_go_back_start_again() -> None:
    monitor = EvidenceMonitor()
    run(monitor, range(40, 80), wrong=["thermal"])
    status = run(monitor, range(1))
    assert monitor.counts["restarts"] == 1
    assert status.level is Level.OK and status.values["reliability.thermal"] == 1.0


def test_boxes_without_opinions_are_unchanged_and_give_no_status() -> None:
    from dataclasses import replace

    monitor = EvidenceMonitor()
    boxes = replace(boxes_of(0), evidence=None)
    assert monitor.update(boxes) is boxes and monitor.evidence_status is None
