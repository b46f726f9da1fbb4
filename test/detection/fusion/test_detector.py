"""Which proposals the fusion detector refines, and what it makes of the answer."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector, Network
from multimodal_perception.evaluation.agreement import golden_frames
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    LidarSweep,
    Modality,
    SensorFrame,
)
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
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


def seeds() -> Boxes3D:
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


def test_only_images_that_are_there_are_looked_at() -> None:
    detector = FusionDetector(FusionConfig(), RUNTIME)
    counted = {kind: Counted(network) for kind, network in detector.images.items()}
    detector.images.update(counted)
    both = golden_frames()[0]
    for frame_, runs in (
        (both, {"camera": 1, "thermal": 1}),
        (dataclasses.replace(both, thermals={}), {"camera": 1, "thermal": 0}),
        (frame(), {"camera": 0, "thermal": 0}),
    ):
        for network in counted.values():
            network.runs = 0
        detector.detect(frame_, ground_cloud(frame_))
        assert {kind: network.runs for kind, network in counted.items()} == runs
    assert not detector.counts["geometric_instead"]


def test_images_made_ready_ahead_are_those_of_their_frame_alone() -> None:
    ahead, behind = (FusionDetector(FusionConfig(min_score=0.2), RUNTIME) for _ in range(2))
    # Thermal contrast depends on what was seen before.
    first, second = (dataclasses.replace(f, thermals={}) for f in golden_frames()[:2])
    for looked, asked in ((first, first), (first, second), (second, second), (None, first)):
        if looked is not None:
            ahead.look_ahead(looked)
        found, told = (d.detect(asked, ground_cloud(asked)) for d in (ahead, behind))
        assert len(found)
        np.testing.assert_array_equal(found.boxes, told.boxes)
        np.testing.assert_array_equal(found.scores, told.scores)


def test_an_image_that_cannot_be_run_is_as_good_as_missing() -> None:
    class Broken(Counted):
        def run(self, arrays):  # type: ignore[no-untyped-def]
            raise EngineError("out of memory")

    detector = FusionDetector(FusionConfig(), RUNTIME)
    detector.images["camera"] = Broken(detector.images["camera"])
    both = golden_frames()[0]
    found = detector.detect(both, ground_cloud(both))
    assert detector.counts["images_left_out"] == 1 and not detector.counts["geometric_instead"]
    without = dataclasses.replace(both, cameras={})
    other = FusionDetector(FusionConfig(), RUNTIME).detect(without, ground_cloud(without))
    assert len(found)
    np.testing.assert_array_equal(found.boxes, other.boxes)
    blind = dataclasses.replace(both, lidars={}, thermals={})
    assert not len(detector.detect(blind, ground_cloud(blind)))
    assert detector.counts["nothing_that_sees"] == 1


@pytest.mark.parametrize(
    ("images", "wrong"),
    [
        ({}, "settings.images: needed: camera, thermal"),
        ("detector_camera", "settings.images: a model's name by each part"),
        ({"camera": "../detector_camera", "thermal": "detector_thermal"}, "name of a folder"),
        (
            {"camera": "detector_thermal", "thermal": "detector_thermal"},
            "settings: not those of",
        ),
        ({"camera": "detector_refinement", "thermal": "detector_thermal"}, "architecture"),
        ({"camera": "gone", "thermal": "detector_thermal"}, "gone"),
    ],
)
def test_image_networks_are_the_cards_own(images: object, wrong: str, tmp_path: Path) -> None:
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


def test_frames_without_lidar_have_a_proposal_network_of_their_own() -> None:
    detector = FusionDetector(FusionConfig(), RUNTIME)
    assert detector.blind is not None
    detector.proposals, detector.blind = Counted(detector.proposals), Counted(detector.blind)
    both = golden_frames()[0]
    for frame_, runs in ((both, (1, 0)), (dataclasses.replace(both, lidars={}), (1, 1))):
        detector.detect(frame_, ground_cloud(frame_))
        assert (detector.proposals.runs, detector.blind.runs) == runs
    assert not detector.failures


@pytest.mark.parametrize("wanted", [True, False])
def test_seeds_are_refined_where_the_switch_says_so(wanted: bool) -> None:
    detector = FusionDetector(FusionConfig(seeds=wanted), RUNTIME)
    assert detector.refinement is not None
    asked: list[np.ndarray] = []
    network = detector.refinement

    class Watched:
        inputs = network.inputs

        def run(self, arrays):  # type: ignore[no-untyped-def]
            asked.append(arrays["boxes"][0])
            return network.run(arrays)

    detector.refinement = Watched()
    seen = frame()
    detector.detect(seen, ground_cloud(seen), seeds())
    among = (np.abs(asked[0] - seeds().boxes[0]) < 1e-5).all(axis=1).any()
    assert among == wanted
    # What the network has no class for is left out.
    assert not (np.abs(asked[0] - seeds().boxes[1]) < 1e-5).all(axis=1).any()
    assert detector.counts["seeds"] == int(wanted)


def test_the_refinement_says_the_class() -> None:
    detector = FusionDetector(FusionConfig(min_score=0.0), RUNTIME)
    assert detector.refinement is not None
    network = detector.refinement

    class Sure:
        inputs = network.inputs

        def run(self, arrays):  # type: ignore[no-untyped-def]
            said = network.run(arrays)
            confidences = np.full_like(said["confidences"], 0.1)
            confidences[..., 3] = 0.9  # a bus, whatever it was proposed as
            return {**said, "confidences": confidences}

    detector.refinement = Sure()
    seen = frame()
    found = detector.detect(seen, ground_cloud(seen))
    first = found.labels[: detector.network.refined // 2]
    assert len(first) and (first == CLASS_NAMES.index("bus")).all()


@pytest.mark.parametrize(("name", "share"), [("pedestrian", 0.8), ("bus", 0.5)])
def test_of_people_the_peak_says_more_than_the_overlap(name: str, share: float) -> None:
    detector = FusionDetector(FusionConfig(min_score=0.0), RUNTIME)
    assert detector.refinement is not None
    label = load_card("detector").classes.index(name)

    class Said:
        def __init__(self, network: Network, values: dict[str, float]) -> None:
            self.network, self.inputs, self.device = network, network.inputs, network.device
            self.values = values

        def run(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            said = self.network.run(arrays)
            for key, value in self.values.items():
                said[key] = np.full_like(said[key], 0.01)
                said[key][..., label if key == "confidences" else slice(None)] = value
            return said

    detector.proposals = Said(detector.proposals, {"scores": 0.5})
    detector.refinement = Said(detector.refinement, {"confidences": 0.2})
    seen = frame()
    found = detector.detect(seen, ground_cloud(seen))
    refined = np.isclose(found.scores, 0.5**share * 0.2 ** (1 - share), atol=1e-4)
    assert refined.any() and (found.labels[refined] == CLASS_NAMES.index(name)).all()


def test_a_hill_changes_nothing_but_heights() -> None:
    """A street that rises 6 in 100 from 5 m ahead on, as the LiDAR alone sees it."""

    def rise(x):  # type: ignore[no-untyped-def]
        return 0.06 * np.maximum(x - 5.0, 0.0)

    plain = next(iter(golden_frames())).only((Modality.LIDAR,))
    (name, sweep), *_ = plain.lidars.items()
    points = sweep.points.copy()
    points[:, 2] += rise(points[:, 0] + plain.reference_from_sensor(name)[0, 3])
    hill = dataclasses.replace(
        plain, lidars={name: dataclasses.replace(sweep, points=points)}, labels=None
    )
    detector = FusionDetector(FusionConfig(min_score=0.3), RUNTIME)
    before, after = (detector.detect(f, ground_cloud(f)) for f in (plain, hill))
    sure = before.select(before.scores > 0.6)
    assert (sure.boxes[:, 0] > 10).any()
    for box, label in zip(sure.boxes, sure.labels, strict=True):
        away = np.hypot(*(after.boxes[:, :2] - box[:2]).T)
        k = int(np.argmin(away))
        assert away[k] < 0.3 and after.labels[k] == label
        assert abs(after.boxes[k, 2] - box[2] - rise(box[0])) < 0.2
