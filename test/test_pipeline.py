"""SensorFrame to Perception: any subset of sensors, the same twice, and what each stage says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from multimodal_perception import pipeline as pipeline_module
from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.datasets.kitti import Kitti
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.frame import (
    Boxes3D,
    LidarSweep,
    OwnVehicle,
    SensorFrame,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.occupancy.evidential import EvidentialMapper
from multimodal_perception.perception import (
    Boxes2D,
    Level,
    Perception,
    SegmentationMask,
    SensorHealth,
)
from multimodal_perception.pipeline import Pipeline, PipelineConfig, build_pipeline
from multimodal_perception.pointcloud.ground_segmentation import Cloud, ground_cloud


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build_pipeline()


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticStreet(frames=1)[0]


def test_the_cars_of_the_street_are_found_where_they_are(
    pipeline: Pipeline, frame: SensorFrame
) -> None:
    perception = pipeline.process(frame)
    assert frame.labels is not None
    cars = frame.labels.boxes[(frame.labels.labels == 1) & (frame.labels.num_points >= 30)]
    assert len(cars) >= 5
    away = np.hypot(
        perception.boxes.boxes[None, :, 0] - cars[:, None, 0],
        perception.boxes.boxes[None, :, 1] - cars[:, None, 1],
    ).min(axis=1)
    assert (away < 1.0).all()


def test_no_object_is_in_two_boxes(pipeline: Pipeline, shared_data: Path) -> None:
    for folder in ("training", "unlabelled_fov"):
        for real in Kitti(shared_data / "kitti" / folder):
            boxes = pipeline.process(real).boxes.boxes
            overlap = iou_bev(boxes, boxes)
            np.fill_diagonal(overlap, 0.0)
            assert overlap.max(initial=0.0) < 0.3


def test_the_same_frame_gives_the_same_answer(pipeline: Pipeline, frame: SensorFrame) -> None:
    first, second = pipeline.process(frame), pipeline.process(frame)
    assert np.array_equal(first.boxes.boxes, second.boxes.boxes)
    assert first.occupancy is not None and second.occupancy is not None
    assert np.array_equal(first.occupancy.free, second.occupancy.free)


def test_a_turned_vehicle_sees_the_same_objects_turned(
    pipeline: Pipeline, frame: SensorFrame
) -> None:
    turn = poses.from_xyz_rpy((0.0, 0.0, 0.0), (0.0, 0.0, 1.1))
    turned = replace(
        frame,
        cameras={},
        base_from_sensor={"lidar": turn @ frame.base_from_sensor["lidar"]},
    )
    straight = pipeline.process(replace(frame, cameras={})).boxes.transformed(turn, "base_link")
    other = pipeline.process(turned).boxes
    sure = straight.boxes[straight.scores > 0.7]
    assert len(sure) >= 5
    away = np.hypot(
        other.boxes[None, :, 0] - sure[:, None, 0], other.boxes[None, :, 1] - sure[:, None, 1]
    ).min(axis=1)
    assert (away < 0.7).mean() >= 0.8


def test_without_lidar_there_are_no_boxes_and_nothing_is_known(
    pipeline: Pipeline, frame: SensorFrame
) -> None:
    perception = pipeline.process(replace(frame, lidars={}))
    assert not len(perception.boxes)
    assert perception.missing == {"lidar"}
    assert perception.occupancy is not None
    assert (perception.occupancy.unknown() == 1).all()


@pytest.mark.parametrize("count", [1, 2, 5, 500])
def test_few_or_scattered_points_do_no_harm(pipeline: Pipeline, count: int) -> None:
    points = np.random.default_rng(count).normal(0, 20, (count, 4)).astype(np.float32)
    perception = pipeline.process(
        SensorFrame(
            7,
            lidars={"lidar": LidarSweep("lidar", 7, "lidar", points)},
            base_from_sensor={"lidar": np.eye(4)},
        )
    )
    assert perception.stamp_ns == 7
    assert np.isfinite(perception.boxes.boxes).all()


def test_every_stage_is_timed_and_the_rest_is_small(pipeline: Pipeline, frame: SensorFrame) -> None:
    rest = []
    for _ in range(5):
        times = pipeline.process(frame).stage_ms
        assert set(times) == {"trust", "ground", "detect", "track", "occupancy", "total"}
        rest.append(times["total"] - sum(v for k, v in times.items() if k != "total"))
    assert 0 <= min(rest) < 5.0  # another process may have had the core in between


def test_masks_boxes_and_health_reach_the_grid(frame: SensorFrame) -> None:
    class Segmenter:
        def segment(self, frame: SensorFrame) -> dict[str, SegmentationMask]:
            return {
                name: SegmentationMask(
                    name, frame.stamp_ns, np.zeros(image.pixels.shape[:2], np.uint8), ("road",)
                )
                for name, image in frame.cameras.items()
            }

    blind = replace(frame, lidars={})
    plain = build_pipeline()
    assert not plain.process(blind).occupancy.free.any()  # type: ignore[union-attr]
    seeing = build_pipeline()
    seeing.segmenter = Segmenter()
    perception = seeing.process(blind)
    assert perception.occupancy is not None and perception.occupancy.free.max() > 0.3
    assert set(perception.segmentations) == set(frame.cameras)
    dead = {n: SensorHealth(n, Level.STALE, "silent") for n in frame.cameras}
    grid = seeing.process(blind, dead).occupancy
    assert grid is not None and not grid.free.any()
    both = seeing.process(frame)
    assert len(both.boxes) and both.occupancy is not None
    without = EvidentialMapper().update(frame, ground_cloud(frame))
    assert both.occupancy.occupied.sum() > without.occupied.sum() + 10  # footprints


def test_what_moves_has_a_velocity_that_reaches_the_grid() -> None:
    def drive(config: dict[str, object]) -> list[Perception]:
        pipeline = build_pipeline(build(PipelineConfig, config, "test"))
        pipeline.detector = _OneCar()
        return [
            pipeline.process(SensorFrame(k * 100_000_000, odom_from_base=np.eye(4)))
            for k in range(20)
        ]

    class _OneCar:
        name = "one car"

        def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
            x = -10.0 + frame.stamp_ns * 10e-9
            box = np.array([[x, 0.0, 0.8, 4.0, 2.0, 1.6, 0.0]], np.float32)
            one = np.ones(1, np.float32)
            return Boxes3D(frame.stamp_ns, "base_link", box, one, one.astype(np.int64))

    tracked, plain = drive({}), drive({"tracking": {"enabled": False}})
    last = tracked[-1].boxes
    assert last.track_ids is not None and last.velocities is not None
    assert last.track_ids.tolist() == tracked[0].boxes.track_ids.tolist()  # type: ignore[union-attr]
    np.testing.assert_allclose(last.velocities, [(10.0, 0.0)], atol=0.1)
    assert plain[-1].boxes.track_ids is None and plain[-1].boxes.velocities is None
    # What it has left half a second ago is forgotten with it alone.
    left = [_occupied_at(p[-1], 2.0, 0.0) for p in (tracked, plain)]
    assert left[0] < 0.5 * left[1]


def _occupied_at(perception: Perception, x: float, y: float) -> float:
    grid = perception.occupancy
    assert grid is not None
    row, column = (
        (v - o) / grid.resolution for v, o in zip((y, x), grid.origin[::-1], strict=True)
    )
    return float(grid.occupied[int(row), int(column)])


def test_boxes_in_images_are_told_and_stand_alone_without_lidar(frame: SensorFrame) -> None:
    name = next(iter(frame.cameras))
    model = frame.intrinsics[name]

    class ImageDetector:
        counts: ClassVar = {"front.blank": 2}

        def detect(self, frame: SensorFrame) -> dict[str, Boxes2D]:
            u, v = model.matrix[:2, 2] + (0.5, 0.08 * model.matrix[1, 1])
            row = np.array([[u - 40, v - 60, u + 40, v + 20]], np.float32)
            size = model.width, model.height
            score, label = np.array([0.9], np.float32), np.zeros(1, np.int64)
            found = Boxes2D(name, frame.stamp_ns, row, score, label, ("vehicle",), size)
            return {name: found}

    pipeline = build_pipeline()
    pipeline.image_detector = ImageDetector()
    seeing = pipeline.process(frame)
    assert list(seeing.boxes2d) == [name] and "image_detect" in seeing.stage_ms
    plain = build_pipeline().process(frame)
    np.testing.assert_array_equal(seeing.boxes.boxes, plain.boxes.boxes)  # LiDAR knows better
    blind = pipeline.process(replace(frame, lidars={}))
    assert len(blind.boxes) == 1 and blind.boxes.covariances is not None
    assert blind.boxes.boxes[0, 0] > 5.0 and 0.0 < blind.boxes.scores[0] < 0.9
    assert blind.occupancy is not None
    assert pipeline.counts["image_detector.front.blank"] == 2


def test_what_was_dropped_is_counted_by_stage(frame: SensorFrame) -> None:
    pipeline = build_pipeline()
    assert not pipeline.counts
    backwards = UltrasonicReading("sonar", frame.stamp_ns, "sonar", 1.0, 5.0, 0.2, 1.0)
    pipeline.process(replace(frame, ultrasonics={"sonar": backwards}))
    assert pipeline.counts == {"occupancy.ultrasonic.bad_limits": 1}


def test_the_own_vehicle_is_neither_an_obstacle_nor_a_box(frame: SensorFrame) -> None:
    class Sees:
        name = "all of it"

        def detect(self, frame: SensorFrame, cloud: Cloud) -> Boxes3D:
            assert not ((np.abs(cloud.points[:, 0]) < 2) & (np.abs(cloud.points[:, 1]) < 0.8)).any()
            car = 0.8, 4, 1.8, 1.6
            boxes = np.array([
                [0.5, 0.2, *car, 0], [0.4, -1.3, *car, -2.3], [2.3, 0.0, 0.9, 0.6, 0.6, 1.7, 1.0],
                [0.0, 1.9, *car, 0.1], [9, 0, *car, 0], [2.7, 0.0, 0.9, 0.6, 0.6, 1.7, 1.0],
            ])  # fmt: skip
            scores, labels = np.full(6, 0.9, np.float32), np.ones(6, np.int64)
            return Boxes3D(
                frame.stamp_ns, frame.base_frame, boxes.astype(np.float32), scores, labels
            )

    roof = np.stack(np.meshgrid(np.arange(-1.5, 1.5, 0.1), np.arange(-0.7, 0.7, 0.1), [1.4]), -1)
    roof = np.column_stack([roof.reshape(-1, 3), np.full(roof.size // 3, 0.2)]).astype(np.float32)
    name, sweep = next(iter(frame.lidars.items()))
    to_sensor = poses.inverse(frame.reference_from_sensor(name))
    roof[:, :3] = poses.transform_points(to_sensor, roof[:, :3])
    seen = LidarSweep(name, sweep.stamp_ns, sweep.frame_id, np.concatenate([sweep.points, roof]))
    loaded = replace(frame, lidars={name: seen}, own_vehicle=OwnVehicle(-2.4, 2.4, -0.9, 0.9))
    pipeline = Pipeline(Sees())
    told = pipeline.process(loaded)
    assert told.boxes.boxes[:, :2].tolist() == pytest.approx(np.array([[0, 1.9], [9, 0], [2.7, 0]]))
    assert pipeline.counts["detector.own_vehicle"] == 3
    assert len(ground_cloud(replace(loaded, own_vehicle=None)).points) > len(
        ground_cloud(loaded).points
    )


def test_occupancy_can_be_left_out_and_a_typo_is_refused() -> None:
    config = build(PipelineConfig, {"occupancy": "none"}, "test")
    assert build_pipeline(config).process(SensorFrame(0)).occupancy is None
    with pytest.raises(ConfigurationError, match=r"geometric\.min_scor: unknown key"):
        build(PipelineConfig, {"geometric": {"min_scor": 0.5}}, "test")


def test_auto_takes_the_networks_where_a_gpu_runs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        name = "fusion"

        def __init__(self, *_: object) -> None:
            self.proposals = SimpleNamespace(device=found)

        def detect(self, *_: object) -> Boxes3D:
            return Boxes3D.empty(0, "base_link")

    monkeypatch.setattr(pipeline_module, "FusionDetector", Fake)
    for there, where, chosen in (
        (False, "cuda:0", "geometric"),
        (True, "cuda:0", "fusion"),
        (True, "cpu", "geometric"),  # a GPU that no engine here can use
    ):
        found = where
        monkeypatch.setattr(pipeline_module, "gpu_present", lambda _, there=there: there)
        assert build_pipeline().detector.name == chosen
    assert build_pipeline(PipelineConfig(detector="geometric")).detector.name == "geometric"
    assert build_pipeline(PipelineConfig(detector="fusion")).detector.name == "fusion"
