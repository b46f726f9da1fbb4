"""Opinions of the sensors: features of sensor geometry, missing sensors, the detector, bad cards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from multimodal_perception.box_evidence import GROUPS, BoxEvidence
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.lidar_beams import count_beams
from multimodal_perception.detection.bev_fusion.opinion_features import (
    FIRST_SLOT,
    MAX_RESIDUAL,
    SLOTS,
    OpinionFeatures,
    Scene,
    compute_features,
)
from multimodal_perception.detection.bev_fusion.roi_features import PointIndex
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.opinions import combine, discount
from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundModel, segment_ground
from multimodal_perception.runtime.engine import EngineError
from test.detection.bev_fusion.small_frames import YAWS, only, rig_frame
from test.detection.bev_fusion.small_images import SMALL, random_image
from test.detection.bev_fusion.small_opinions import write_opinions
from test.detection.bev_fusion.test_detector import detect, open_detector

# A block of street_points, a place without an object that beams pass through, and one behind the block.
BLOCK, FREE, HIDDEN = (6.0, 0.5, 0.9), (8.0, -6.0, 0.9), (11.0, 0.9, 0.9)


def boxes_at(*centres: tuple[float, float, float], size: float = 1.6) -> np.ndarray:
    return np.array([[*c, size, size, size, 0.0] for c in centres], np.float32).reshape(-1, 7)


def wall_cloud(distance: float, azimuths: np.ndarray) -> Cloud:
    """Returns of a LiDAR in the origin at one distance and the height 0."""
    points = np.zeros((len(azimuths), 4), np.float32)
    points[:, 0], points[:, 1] = distance * np.cos(azimuths), distance * np.sin(azimuths)
    zeros = np.zeros(len(points), np.float32)
    return Cloud(
        points, zeros, zeros.astype(bool), GroundModel(np.zeros((8, 8), np.float32), 10.0),
        np.zeros((1, 3), np.float32), zeros.astype(np.uint8),
    )  # fmt: skip


def features_of(frame: SensorFrame, boxes: np.ndarray) -> OpinionFeatures:
    cloud = segment_ground(frame)
    index = PointIndex.build(cloud.ground_relative_points, SMALL.pillars.half_extent)
    names = [*frame.cameras, *frame.thermals]
    images = {
        name: random_image(k, YAWS.get(name, 0.1), "camera" if name in YAWS else "thermal")
        for k, name in enumerate(names)
    }
    return compute_features(boxes, Scene(frame, cloud, index, images), SMALL)


def slot_names(features: OpinionFeatures, row: int) -> list[str]:
    return ["" if k < 0 else features.names[k] for k in features.sources[row]]


@pytest.mark.parametrize("bearing", [0.0, 1.2, -3.1, np.pi])
def test_beams_end_in_front_of_within_or_behind_a_box(bearing: float) -> None:
    box = np.array([[10 * np.cos(bearing), 10 * np.sin(bearing), 0.0, 2.0, 2.0, 2.0, bearing]])
    azimuths = bearing + np.linspace(-0.1, 0.1, 41)
    width = np.arctan2(1.0, 9.0)
    inside = int((np.abs(azimuths - bearing) <= width).sum())
    for distance, column in ((5.0, 0), (10.0, 1), (20.0, 2)):
        expected = np.zeros(3)
        expected[column] = inside
        counts = count_beams(box, wall_cloud(distance, azimuths))
        np.testing.assert_array_equal(counts[0], expected)
    above = box + np.array([0, 0, 5.0, 0, 0, 0, 0])
    assert not count_beams(above, wall_cloud(10.0, azimuths)).any()
    assert not count_beams(box, wall_cloud(10.0, azimuths + 1.0)).any()


def test_a_lidar_has_no_opinion_about_hidden_boxes_and_those_beyond_its_range() -> None:
    frame = only(rig_frame(), "lidar")
    boxes = boxes_at(BLOCK, FREE, HIDDEN, (40.0, 0.0, 0.9))
    features = features_of(frame, boxes)
    observed = [slot_names(features, row)[0] for row in range(len(boxes))]
    assert observed[0] == "lidar" and observed[3] == ""
    assert not features.values["lidar"][3].any()
    alone = features_of(only(rig_frame(), "front"), boxes)
    assert (alone.sources[:, 0] < 0).all()


def test_a_view_belongs_to_the_camera_that_shows_the_box() -> None:
    frame = rig_frame()
    features = features_of(frame, boxes_at(BLOCK, (0.0, 8.0, 0.9), (-9.0, -0.4, 0.9)))
    first = FIRST_SLOT["camera"]
    shown = [slot_names(features, row)[first] for row in range(3)]
    assert shown == ["front", "left", "rear"]
    assert slot_names(features, 0)[FIRST_SLOT["thermal"]] == "thermal"
    assert slot_names(features, 2)[FIRST_SLOT["thermal"]] == ""
    assert all(np.isfinite(v).all() for v in features.values.values())
    assert [v.shape[:2] for v in features.values.values()] == [(3, 1), (3, 1), (3, 2), (3, 2)]


def test_the_features_of_a_sensor_do_not_depend_on_other_sensors() -> None:
    boxes = boxes_at(BLOCK, FREE)
    every = features_of(rig_frame(), boxes)
    lidar = features_of(only(rig_frame(), "lidar"), boxes)
    np.testing.assert_array_equal(every.values["lidar"], lidar.values["lidar"])
    echoes = features_of(only(rig_frame(), "ultrasonic"), boxes)
    np.testing.assert_array_equal(every.values["ultrasonic"], echoes.values["ultrasonic"])


@pytest.mark.parametrize(("measured", "residual"), [(2.0, 0.0), (2.6, 2.0), (99.0, MAX_RESIDUAL)])
def test_the_echo_is_compared_with_the_nearest_side_of_the_box(
    measured: float, residual: float
) -> None:
    frame = only(rig_frame(), "ultrasonic")
    reading = dataclasses.replace(frame.ultrasonics["ultrasonic"], range_m=measured)
    frame = dataclasses.replace(frame, ultrasonics={"ultrasonic": reading})
    # The sensor is at x = 2 m and looks along x; the near side of the box is 2 m ahead of it.
    features = features_of(frame, boxes_at((4.5, 0.0, 0.5), (-3.0, 0.0, 0.5), size=1.0))
    found, echo, share, _ = features.values["ultrasonic"][0, 0, :4]
    # The nearest sampled point of the side is not exactly on the axis.
    assert found == pytest.approx(min(residual, (5.0 - 2.0) / 0.3), abs=0.05)
    assert echo == (measured < reading.max_range) and 0 < share <= 1
    assert [slot_names(features, row)[-1] for row in (0, 1)] == ["ultrasonic", ""]
    nothing = dataclasses.replace(reading, range_m=float("nan"))
    frame = dataclasses.replace(frame, ultrasonics={"ultrasonic": nothing})
    assert (features_of(frame, boxes_at((4.5, 0.0, 0.5))).sources < 0).all()


def test_no_boxes_give_no_features() -> None:
    features = features_of(rig_frame(), boxes_at())
    assert features.sources.shape == (0, len(SLOTS))


@pytest.fixture(scope="module")
def opinions(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_opinions(small_model, tmp_path_factory.mktemp("opinions") / "opinions")


@pytest.fixture(scope="module")
def assessed(small_model: Path, opinions: Path) -> BevFusionDetector:
    return open_detector(small_model, opinions=str(opinions))


def evidence_of(boxes: Boxes3D) -> BoxEvidence:
    assert boxes.evidence is not None
    return boxes.evidence


def test_boxes_have_the_opinions_of_the_sensors_of_the_frame(
    assessed: BevFusionDetector, small_model: Path
) -> None:
    boxes = detect(assessed, rig_frame())
    evidence = evidence_of(boxes)
    assert len(boxes) > 6  # more than one run of the network
    assert set(evidence.sources) == {*YAWS, "thermal", "lidar", "ultrasonic"}
    parts = [discount(o, 0.9) for o in evidence.opinions().values()]
    expected = combine(parts)
    np.testing.assert_allclose(evidence.total_uncertainty, expected.opinions.uncertainty)
    np.testing.assert_allclose(evidence.conflict, expected.conflict)
    assert (evidence.uncertainty < 1).any(axis=0).all()
    # The opinions change no box.
    plain = detect(open_detector(small_model), rig_frame())
    assert plain.evidence is None
    np.testing.assert_array_equal(plain.boxes, boxes.boxes)
    np.testing.assert_array_equal(plain.scores, boxes.scores)


@pytest.mark.parametrize("name", ["front", "thermal", "lidar", "ultrasonic"])
def test_a_missing_sensor_has_no_opinion(assessed: BevFusionDetector, name: str) -> None:
    assessed.clear_past_sweeps()
    rest = [n for n in (*YAWS, "thermal", "lidar", "ultrasonic") if n != name]
    evidence = evidence_of(detect(assessed, only(rig_frame(), *rest)))
    assert set(evidence.sources) == set(rest)
    if name != "front":
        modality = evidence.modality_opinions()[name]
        assert (modality.uncertainty == 1).all()


def test_evidence_that_an_engine_rounds_below_zero_is_none(
    small_model: Path, opinions: Path
) -> None:
    detector = open_detector(small_model, opinions=str(opinions))
    assessor: Any = detector.opinions
    run = assessor.network.run
    assessor.network.run = lambda arrays: {
        name: np.full_like(values, -1.9e-6) for name, values in run(arrays).items()
    }
    evidence = evidence_of(detect(detector, rig_frame()))
    assert (evidence.uncertainty == 1).all() and "failed_opinions" not in detector.counts


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_evidence_that_is_not_finite_is_a_failure_of_the_opinions_only(
    small_model: Path, opinions: Path, value: float
) -> None:
    detector = open_detector(small_model, opinions=str(opinions))
    assessor: Any = detector.opinions
    run = assessor.network.run
    assessor.network.run = lambda arrays: {
        name: np.full_like(values, value) for name, values in run(arrays).items()
    }
    boxes = detect(detector, rig_frame())
    assert len(boxes) and boxes.evidence is None
    assert detector.counts["failed_opinions"] == 1


def test_load_levels_and_failures_leave_the_boxes_without_opinions(
    small_model: Path, opinions: Path
) -> None:
    detector = open_detector(small_model, opinions=str(opinions))
    detector.set_load_level(1)
    assert detect(detector, rig_frame()).evidence is None
    detector.set_load_level(0)

    def fail(arrays: dict[str, Any]) -> dict[str, Any]:
        raise EngineError("broken")

    assessor: Any = detector.opinions
    assessor.network.run = fail
    boxes = detect(detector, rig_frame(1))
    assert len(boxes) and boxes.evidence is None
    assert detector.counts["failed_opinions"] == 1
    assert "no opinions of the sensors" in detector.status[0].message


def test_the_detector_finds_the_network_that_its_card_names(
    small_model: Path, opinions: Path, tmp_path: Path
) -> None:
    for folder in small_model.parent.glob("small*"):
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "own").symlink_to(opinions)
    (tmp_path / "small").unlink()
    (tmp_path / "small").mkdir()
    for file in small_model.iterdir():
        (tmp_path / "small" / file.name).write_bytes(file.read_bytes())
    card = yaml.safe_load((tmp_path / "small" / "card.yaml").read_text())
    card["settings"]["opinions"] = "own"
    (tmp_path / "small" / "card.yaml").write_text(yaml.safe_dump(card))
    assert open_detector(tmp_path / "small").opinions is not None
    assert open_detector(tmp_path / "small", opinions="none").opinions is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("architecture", "near_field", "architecture"),
        ("classes", ["vehicle", "nothing"], "classes: must be vehicle"),
        ("settings.network", {"image_channels": 9}, "image_channels: 9"),
        ("settings.network", {"hiden": 9}, "hiden"),
        ("settings.image_networks", {"camera": ["ab"]}, "image_networks.camera: was trained with"),
        ("settings.image_networks", 3, "expected hashes by modality"),
        ("settings.reliability", {"radar": 0.5}, "'radar': allowed: lidar, camera"),
        ("settings.reliability", {"lidar": 2}, "reliability.lidar: expected a number"),
        ("settings.reliability", [1], "expected a mapping"),
        ("inputs.lidar.shape", [1, 6, 1, 5], "inputs: settings.network needs"),
        ("outputs.evidence.shape", [1, 6, 6, 4], "outputs: expected evidence"),
    ],
)
def test_cards_that_do_not_fit_are_errors_that_name_the_key(
    key: str, value: Any, message: str, small_model: Path, opinions: Path, tmp_path: Path
) -> None:
    for file in opinions.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = yaml.safe_load((tmp_path / "card.yaml").read_text())
    *parents, last = key.split(".")
    part = card
    for name in parents:
        part = part[name]
    part[last] = value
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(UserError, match=message):
        open_detector(small_model, opinions=str(tmp_path))


def test_groups_have_all_classes_of_the_detector() -> None:
    from multimodal_perception.box_evidence import class_groups
    from multimodal_perception.detection.bev_fusion.network_config import CLASSES

    groups = class_groups((*CLASSES, "unknown", "tree"))
    assert (groups[:-2] >= 0).all() and (groups[-2:] == -1).all()
    assert set(groups[:-2]) == set(range(len(GROUPS) - 1))
