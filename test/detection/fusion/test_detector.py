"""The fusion detector: networks used per frame, failures, refinement, scores."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import Network
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.fusion.detector import FusionDetector
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.evaluation.agreement import golden_frames
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    LidarSweep,
    Modality,
    SensorFrame,
)
from multimodal_perception.perception import Level
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import load_card, write_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig

RUNTIME = RuntimeConfig(order=("onnxruntime",), device="cpu")


def frame() -> SensorFrame:
    points = np.random.default_rng(0).uniform(-20, 20, (400, 4)).astype(np.float32)
    points[:, 2] = -1.7
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", points)},
        base_from_sensor={"lidar": np.eye(4)},
    )


def external_proposals() -> Boxes3D:
    rows = np.array([[13, 2, 0.8, 4.5, 1.8, 1.6, 0], [9, -7, 0.8, 0.6, 0.6, 1.7, 0]], np.float32)
    labels = np.array([CLASS_NAMES.index("pedestrian"), CLASS_NAMES.index("unknown")])
    return Boxes3D(0, "base_link", rows, np.array([0.9, 0.9], np.float32), labels)


class Counted:
    """An image network that counts its runs."""

    def __init__(self, network: Network) -> None:
        self.network, self.runs = network, 0
        self.inputs, self.device = network.inputs, network.device

    def run(self, arrays):  # type: ignore[no-untyped-def]
        self.runs += 1
        return self.network.run(arrays)


def test_image_networks_run_only_for_available_images() -> None:
    detector = FusionDetector(FusionConfig(), RUNTIME)
    counted = {modality: Counted(network) for modality, network in detector.image_networks.items()}
    detector.image_networks.update(counted)
    both = golden_frames()[0]
    for frame_, runs in (
        (both, {"camera": 1, "thermal": 1}),
        (dataclasses.replace(both, thermals={}), {"camera": 1, "thermal": 0}),
        (frame(), {"camera": 0, "thermal": 0}),
    ):
        for network in counted.values():
            network.runs = 0
        detector.detect(frame_, segment_ground(frame_))
        assert {modality: network.runs for modality, network in counted.items()} == runs
    assert not detector.counts["fallback_geometric"]


def test_prepared_images_are_only_used_for_their_own_frame() -> None:
    preparing, plain = (FusionDetector(FusionConfig(min_score=0.2), RUNTIME) for _ in range(2))
    # Without thermal images, whose contrast normalisation depends on earlier frames.
    first, second = (dataclasses.replace(f, thermals={}) for f in golden_frames()[:2])
    for prepared, detected in ((first, first), (first, second), (second, second), (None, first)):
        if prepared is not None:
            preparing.prepare(prepared)
        boxes, expected = (d.detect(detected, segment_ground(detected)) for d in (preparing, plain))
        assert len(boxes)
        np.testing.assert_array_equal(boxes.boxes, expected.boxes)
        np.testing.assert_array_equal(boxes.scores, expected.scores)


def test_image_whose_network_fails_counts_as_missing() -> None:
    class Broken(Counted):
        def run(self, arrays):  # type: ignore[no-untyped-def]
            raise EngineError("out of memory")

    detector = FusionDetector(FusionConfig(), RUNTIME)
    detector.image_networks["camera"] = Broken(detector.image_networks["camera"])
    both = golden_frames()[0]
    found = detector.detect(both, segment_ground(both))
    assert detector.counts["failed_images"] == 1 and not detector.counts["fallback_geometric"]
    without = dataclasses.replace(both, cameras={})
    other = FusionDetector(FusionConfig(), RUNTIME).detect(without, segment_ground(without))
    assert len(found)
    np.testing.assert_array_equal(found.boxes, other.boxes)
    camera_only = dataclasses.replace(both, lidars={}, thermals={})
    assert not len(detector.detect(camera_only, segment_ground(camera_only)))
    assert detector.counts["no_exteroceptive_data"] == 1


@pytest.mark.parametrize(
    ("images", "wrong"),
    [
        ({}, "settings.images: must name a model for each of camera, thermal"),
        ("detector_camera", "settings.images: expected a mapping"),
        (
            {"camera": "../detector_camera", "thermal": "detector_thermal"},
            "name of a folder",
        ),
        (
            {"camera": "detector_thermal", "thermal": "detector_thermal"},
            "settings.image: 'thermal'",
        ),
        ({"camera": "detector_refinement", "thermal": "detector_thermal"}, "architecture"),
        ({"camera": "gone", "thermal": "detector_thermal"}, "gone"),
    ],
)
def test_cards_with_unsuitable_image_networks_are_refused(
    images: object, wrong: str, tmp_path: Path
) -> None:
    for name in ("detector", "detector_camera", "detector_thermal", "detector_refinement"):
        source = load_card(name).path
        assert source is not None
        shutil.copytree(source.parent, tmp_path / name)
    card = load_card(tmp_path / "detector")
    write_card(
        tmp_path / "detector",
        dataclasses.replace(card, settings={**card.settings, "images": images}),
    )
    with pytest.raises(UserError, match=wrong):
        FusionDetector(FusionConfig(str(tmp_path / "detector")), RUNTIME)


def test_frames_without_lidar_use_their_own_proposal_network() -> None:
    detector = FusionDetector(FusionConfig(), RUNTIME)
    assert detector.proposal_network_without_lidar is not None
    detector.proposal_network, detector.proposal_network_without_lidar = (
        Counted(detector.proposal_network),
        Counted(detector.proposal_network_without_lidar),
    )
    both = golden_frames()[0]
    for frame_, runs in ((both, (1, 0)), (dataclasses.replace(both, lidars={}), (1, 1))):
        detector.detect(frame_, segment_ground(frame_))
        assert (
            detector.proposal_network.runs,
            detector.proposal_network_without_lidar.runs,
        ) == runs
    assert not detector.failures


@pytest.mark.parametrize("enabled", [True, False])
def test_external_proposals_are_refined_if_enabled(enabled: bool) -> None:
    detector = FusionDetector(FusionConfig(external_proposals=enabled), RUNTIME)
    assert detector.refinement_network is not None
    refined: list[np.ndarray] = []
    network = detector.refinement_network

    class Recorder:
        inputs = network.inputs

        def run(self, arrays):  # type: ignore[no-untyped-def]
            refined.append(arrays["boxes"][0])
            return network.run(arrays)

    detector.refinement_network = Recorder()
    input_frame = frame()
    assert detector.uses_proposals == enabled
    detector.detect(input_frame, segment_ground(input_frame), external_proposals())
    is_refined = (np.abs(refined[0] - external_proposals().boxes[0]) < 1e-5).all(axis=1).any()
    assert is_refined == enabled
    # The network does not have the class of the second one.
    assert not (np.abs(refined[0] - external_proposals().boxes[1]) < 1e-5).all(axis=1).any()
    assert detector.counts["external_proposals"] == int(enabled)


def test_class_is_predicted_by_the_refinement_network() -> None:
    detector = FusionDetector(FusionConfig(min_score=0.0), RUNTIME)
    assert detector.refinement_network is not None
    network = detector.refinement_network

    class PredictsBus:
        inputs = network.inputs

        def run(self, arrays):  # type: ignore[no-untyped-def]
            outputs = network.run(arrays)
            confidences = np.full_like(outputs["confidences"], 0.1)
            confidences[..., 3] = 0.9  # bus, independent of the proposal's class
            return {**outputs, "confidences": confidences}

    detector.refinement_network = PredictsBus()
    input_frame = frame()
    found = detector.detect(input_frame, segment_ground(input_frame))
    first = found.labels[: detector.network_config.refined_proposals // 2]
    assert len(first) and (first == CLASS_NAMES.index("bus")).all()


@pytest.mark.parametrize(("name", "weight"), [("pedestrian", 0.8), ("bus", 0.5)])
def test_proposal_score_has_a_larger_weight_for_people(name: str, weight: float) -> None:
    detector = FusionDetector(FusionConfig(min_score=0.0), RUNTIME)
    assert detector.refinement_network is not None
    label = load_card("detector").classes.index(name)

    class ConstantOutputs:
        def __init__(self, network: Network, values: dict[str, float]) -> None:
            self.network, self.inputs, self.device = network, network.inputs, network.device
            self.values = values

        def run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = self.network.run(arrays)
            for key, value in self.values.items():
                outputs[key] = np.full_like(outputs[key], 0.01)
                outputs[key][..., label if key == "confidences" else slice(None)] = value
            return outputs

    detector.proposal_network = ConstantOutputs(detector.proposal_network, {"scores": 0.5})
    detector.refinement_network = ConstantOutputs(detector.refinement_network, {"confidences": 0.2})
    input_frame = frame()
    found = detector.detect(input_frame, segment_ground(input_frame))
    refined = np.isclose(found.scores, 0.5**weight * 0.2 ** (1 - weight), atol=1e-4)
    assert refined.any() and (found.labels[refined] == CLASS_NAMES.index(name)).all()


def test_slope_only_changes_the_heights_of_boxes() -> None:
    """LiDAR only; a street with a gradient of 6 % from 5 m ahead."""

    def rise(x):  # type: ignore[no-untyped-def]
        return 0.06 * np.maximum(x - 5.0, 0.0)

    plain = next(iter(golden_frames())).select_modalities((Modality.LIDAR,))
    (name, sweep), *_ = plain.lidars.items()
    points = sweep.points.copy()
    points[:, 2] += rise(points[:, 0] + plain.reference_from_sensor(name)[0, 3])
    hill = dataclasses.replace(
        plain, lidars={name: dataclasses.replace(sweep, points=points)}, labels=None
    )
    detector = FusionDetector(FusionConfig(min_score=0.3), RUNTIME)
    before, after = (detector.detect(f, segment_ground(f)) for f in (plain, hill))
    confident = before.select(before.scores > 0.6)
    assert (confident.boxes[:, 0] > 10).any()
    for box, label in zip(confident.boxes, confident.labels, strict=True):
        distance = np.hypot(*(after.boxes[:, :2] - box[:2]).T)
        k = int(np.argmin(distance))
        assert distance[k] < 0.3 and after.labels[k] == label
        assert abs(after.boxes[k, 2] - box[2] - rise(box[0])) < 0.2


class Failing:
    """A network that no engine can run."""

    def __init__(self, network: Network) -> None:
        self.inputs, self.device = network.inputs, network.device

    def run(self, arrays):  # type: ignore[no-untyped-def]
        raise EngineError("out of memory")


def test_failures_are_counted_and_reported_in_the_status() -> None:
    detector = FusionDetector(FusionConfig(), RUNTIME)
    both = dataclasses.replace(golden_frames()[0], stamp_ns=10**9)
    cloud = segment_ground(both)
    detector.detect(both, cloud)
    statuses = {status.name: status for status in detector.status}
    assert detector.last_failure is None
    assert all(status.level == Level.OK for status in statuses.values())
    assert {"fusion_detector", "detector", "detector_refinement"} <= set(statuses)
    assert statuses["detector"].values["engine"] == "onnxruntime"
    working, detector.proposal_network = (
        detector.proposal_network,
        Failing(detector.proposal_network),
    )
    expected = GeometricDetector().detect(both, cloud)
    np.testing.assert_array_equal(detector.detect(both, cloud).boxes, expected.boxes)
    assert detector.counts["fallback_geometric"] == 1
    assert detector.last_failure is not None and detector.last_failure.stamp_ns == 10**9
    status = detector.status[0]
    assert status.level == Level.WARN and "out of memory" in status.message
    assert status.values["fallback_geometric"] == 1
    detector.proposal_network = working
    for seconds, level in ((3, Level.WARN), (8, Level.OK)):
        later = dataclasses.replace(both, stamp_ns=seconds * 10**9)
        detector.detect(later, cloud)
        assert detector.status[0].level == level
    assert "out of memory" in str(detector.status[0].values["last_failure"])


def test_refinement_network_of_other_classes_is_refused(tmp_path: Path) -> None:
    source = load_card("detector_refinement").path
    assert source is not None
    shutil.copytree(source.parent, tmp_path / "detector_refinement")
    card = load_card(tmp_path / "detector_refinement")
    write_card(
        tmp_path / "detector_refinement", dataclasses.replace(card, classes=card.classes[::-1])
    )
    config = FusionConfig(refinement=str(tmp_path / "detector_refinement"))
    with pytest.raises(UserError, match="classes"):
        FusionDetector(config, RUNTIME)


def test_load_levels_save_images_then_the_second_stage_then_all_networks() -> None:
    detector = FusionDetector(FusionConfig(min_score=0.2), RUNTIME)
    assert detector.load_levels == ("full", "half_images", "no_refinement", "geometric")
    full = golden_frames()[0]
    ((name, image),) = full.cameras.items()
    poses = {**full.base_from_sensor, "second": full.base_from_sensor[name]}
    models = {**full.intrinsics, "second": full.intrinsics[name]}
    two = dataclasses.replace(
        full,
        cameras={name: image, "second": dataclasses.replace(image, sensor="second")},
        base_from_sensor=poses,
        intrinsics=models,
    )
    counted = Counted(detector.image_networks["camera"])
    detector.image_networks["camera"] = counted
    refinement = Counted(detector.refinement_network)  # type: ignore[arg-type]
    detector.refinement_network = refinement
    cloud = segment_ground(two)
    for level, images, refined in ((0, 2, 1), (1, 1, 1), (2, 1, 0), (3, 0, 0), (0, 2, 1)):
        counted.runs = refinement.runs = 0
        detector.set_load_level(level)
        detector.prepare(two)
        boxes = detector.detect(two, cloud)
        assert (counted.runs, refinement.runs) == (images, refined)
    assert len(boxes)
    counts = {k: n for k, n in detector.counts.items() if k.startswith("load.")}
    assert counts == {
        "load.half_images": 1,
        "load.no_refinement": 1,
        "load.geometric": 1,
        "load.skipped_images": 2,
    }
    with pytest.raises(ValueError, match="load level 4; allowed: 0 to 3"):
        detector.set_load_level(4)
