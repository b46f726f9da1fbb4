"""The pipeline: any subset of sensors, deterministic results, and the data passed between stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import build
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import (
    Boxes3D,
    LidarSweep,
    SensorFrame,
    UltrasonicReading,
    VehicleFootprint,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.occupancy.evidential import EvidentialMapper
from multimodal_perception.perception import Level, Perception, SensorHealth, StageStatus
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.pointcloud.ground_segmentation import Cloud, segment_ground
from multimodal_perception.stages import ImageResults, Output
from multimodal_perception.tracking import TrackingConfig
from test.fake_stages import (
    FakeDetector,
    FakeImageDetector,
    FakeImageFusion,
    FakeMapper,
    FakeSegmenter,
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build_pipeline()


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticDataset(frames=1)[0]


def test_cars_of_the_synthetic_street_are_detected_within_one_metre(
    pipeline: Pipeline, frame: SensorFrame
) -> None:
    perception = pipeline.process(frame)
    assert frame.labels is not None
    cars = frame.labels.boxes[(frame.labels.labels == 1) & (frame.labels.num_points >= 30)]
    assert len(cars) >= 5
    distance = np.hypot(
        perception.boxes.boxes[None, :, 0] - cars[:, None, 0],
        perception.boxes.boxes[None, :, 1] - cars[:, None, 1],
    ).min(axis=1)
    assert (distance < 1.0).all()


def test_boxes_do_not_overlap_on_real_sweeps(pipeline: Pipeline, shared_data: Path) -> None:
    for folder in ("training", "unlabelled_fov"):
        for real in KittiDataset(shared_data / "kitti" / folder):
            boxes = pipeline.process(real).boxes.boxes
            overlap = iou_bev(boxes, boxes)
            np.fill_diagonal(overlap, 0.0)
            assert overlap.max(initial=0.0) < 0.3


def test_the_same_frame_gives_the_same_result(pipeline: Pipeline, frame: SensorFrame) -> None:
    first, second = pipeline.process(frame), pipeline.process(frame)
    assert np.array_equal(first.boxes.boxes, second.boxes.boxes)
    assert first.occupancy is not None and second.occupancy is not None
    assert np.array_equal(first.occupancy.free, second.occupancy.free)


def test_detections_rotate_with_the_vehicle(pipeline: Pipeline, frame: SensorFrame) -> None:
    rotation = poses.from_xyz_rpy((0.0, 0.0, 0.0), (0.0, 0.0, 1.1))
    rotated = replace(
        frame,
        cameras={},
        base_from_sensor={"lidar": rotation @ frame.base_from_sensor["lidar"]},
    )
    expected = pipeline.process(replace(frame, cameras={})).boxes.transformed(rotation, "base_link")
    boxes = pipeline.process(rotated).boxes
    confident = expected.boxes[expected.scores > 0.7]
    assert len(confident) >= 5
    distance = np.hypot(
        boxes.boxes[None, :, 0] - confident[:, None, 0],
        boxes.boxes[None, :, 1] - confident[:, None, 1],
    ).min(axis=1)
    assert (distance < 0.7).mean() >= 0.8


def test_without_lidar_there_are_no_boxes_and_all_cells_are_unknown(
    pipeline: Pipeline, frame: SensorFrame
) -> None:
    perception = pipeline.process(replace(frame, lidars={}))
    assert not len(perception.boxes)
    assert perception.missing == {"lidar"}
    assert perception.occupancy is not None
    assert (perception.occupancy.unknown() == 1).all()


@pytest.mark.parametrize("count", [1, 2, 5, 500])
def test_few_or_scattered_points_are_processed(pipeline: Pipeline, count: int) -> None:
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


def test_every_stage_is_timed_and_the_overhead_is_small(
    pipeline: Pipeline, frame: SensorFrame
) -> None:
    overheads = []
    for _ in range(5):
        times = pipeline.process(frame).stage_ms
        assert set(times) == {"image_quality", "ground", "detect", "track", "occupancy", "total"}
        # Ground segmentation overlaps with the assessment of the images.
        parts = {k: v for k, v in times.items() if k not in ("total", "ground", "image_quality")}
        slower = max(times["ground"], times["image_quality"])
        overheads.append(times["total"] - sum(parts.values()) - slower)
    assert 0 <= min(overheads) < 5.0  # the minimum: another process may use the core


def test_masks_boxes_and_health_are_used_by_the_occupancy_grid(frame: SensorFrame) -> None:
    without_lidar = replace(frame, lidars={})
    plain = build_pipeline()
    assert not plain.process(without_lidar).occupancy.free.any()  # type: ignore[union-attr]
    pipeline = build_pipeline(segmenter=FakeSegmenter())
    perception = pipeline.process(without_lidar)
    assert perception.occupancy is not None and perception.occupancy.free.max() > 0.3
    assert set(perception.segmentations) == set(frame.cameras)
    stale = {n: SensorHealth(n, Level.STALE, "silent") for n in frame.cameras}
    grid = pipeline.process(without_lidar, stale).occupancy
    assert grid is not None and not grid.free.any()
    complete = pipeline.process(frame)
    assert len(complete.boxes) and complete.occupancy is not None
    lidar_only = EvidentialMapper().update(frame, segment_ground(frame))
    assert complete.occupancy.occupied.sum() > lidar_only.occupied.sum() + 10  # footprints


def test_velocities_of_tracks_clear_cells_that_an_object_has_left() -> None:
    def moving_car(frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        x = -10.0 + frame.stamp_ns * 10e-9
        box = np.array([[x, 0.0, 0.8, 4.0, 2.0, 1.6, 0.0]], np.float32)
        one = np.ones(1, np.float32)
        return Boxes3D(frame.stamp_ns, "base_link", box, one, one.astype(np.int64))

    def drive(config: dict[str, object]) -> list[Perception]:
        config_ = build(PipelineConfig, config, "test")
        pipeline = build_pipeline(config_, detector=FakeDetector(moving_car))
        return [
            pipeline.process(SensorFrame(k * 100_000_000, odom_from_base=np.eye(4)))
            for k in range(20)
        ]

    tracked, plain = drive({}), drive({"tracking": {"enabled": False}})
    last = tracked[-1].boxes
    assert last.track_ids is not None and last.velocities is not None
    assert last.track_ids.tolist() == tracked[0].boxes.track_ids.tolist()  # type: ignore[union-attr]
    np.testing.assert_allclose(last.velocities, [(10.0, 0.0)], atol=0.1)
    assert plain[-1].boxes.track_ids is None and plain[-1].boxes.velocities is None
    # A cell that the car left half a second ago: only with velocities its evidence decays faster.
    occupied = [_occupied_at(p[-1], 2.0, 0.0) for p in (tracked, plain)]
    assert occupied[0] < 0.5 * occupied[1]


def _occupied_at(perception: Perception, x: float, y: float) -> float:
    grid = perception.occupancy
    assert grid is not None
    row, column = (
        (v - o) / grid.resolution for v, o in zip((y, x), grid.origin[::-1], strict=True)
    )
    return float(grid.occupied[int(row), int(column)])


def test_image_boxes_become_3d_boxes_without_lidar(frame: SensorFrame) -> None:
    image_detector = FakeImageDetector({"front.blank": 2})
    pipeline = build_pipeline(image_detector=image_detector)
    with_lidar = pipeline.process(frame)
    assert set(with_lidar.boxes2d) == set(frame.cameras) and "image_detect" in with_lidar.stage_ms
    without_lidar = pipeline.process(replace(frame, lidars={}))
    assert len(without_lidar.boxes) == 1 and without_lidar.boxes.covariances is not None
    assert without_lidar.boxes.boxes[0, 0] > 5.0 and 0.0 < without_lidar.boxes.scores[0] < 0.9
    assert without_lidar.boxes.track_ids is not None
    assert without_lidar.occupancy is not None
    assert pipeline.counts["image_detector.front.blank"] == 2


def test_image_networks_run_before_the_detector_which_gets_their_results(
    frame: SensorFrame,
) -> None:
    detector = FakeDetector()
    pipeline = build_pipeline(
        detector=detector,
        image_detector=FakeImageDetector(),
        segmenter=FakeSegmenter(),
        occupancy=FakeMapper(),
    )
    pipeline.process(frame, requested=())
    assert detector.image_results[-1] == ImageResults()  # nothing uses them
    detector.uses_proposals = detector.uses_masks = True
    perception = pipeline.process(frame, requested=())
    results = detector.image_results[-1]
    assert results is not None and results.boxes == perception.boxes2d
    assert set(results.segmentations) == set(frame.cameras)
    names = list(perception.stage_ms)
    assert max(names.index("image_detect"), names.index("segment")) < names.index("detect")


def test_optional_outputs_are_computed_only_on_request(frame: SensorFrame) -> None:
    fusion, segmenter, images = FakeImageFusion(), FakeSegmenter(), FakeImageDetector()
    stages = {"image_fusion": fusion, "segmenter": segmenter, "image_detector": images}
    pipeline = build_pipeline(detector=FakeDetector(), occupancy=FakeMapper(), **stages)
    none = pipeline.process(frame, requested=())
    assert not fusion.frames and not segmenter.frames and not images.frames
    assert not none.fused_images and not none.segmentations and not none.boxes2d
    assert not {"fuse_images", "segment", "image_detect"} & set(none.stage_ms)
    for output, stage, key in (
        (Output.FUSED_IMAGES, fusion, "fused_images"),
        (Output.SEGMENTATIONS, segmenter, "segmentations"),
        (Output.IMAGE_BOXES, images, "boxes2d"),
    ):
        perception = pipeline.process(frame, requested={output})
        assert getattr(perception, key) and len(stage.frames) == 1
    everything = pipeline.process(frame)
    assert everything.fused_images and everything.segmentations and everything.boxes2d


def test_an_output_that_another_stage_needs_is_computed_without_request(
    frame: SensorFrame,
) -> None:
    mapper, segmenter = FakeMapper(uses_masks=True), FakeSegmenter()
    detector, images = FakeDetector(), FakeImageDetector()
    pipeline = build_pipeline(
        detector=detector, image_detector=images, segmenter=segmenter, occupancy=mapper
    )
    pipeline.process(frame, requested=())
    assert segmenter.frames and set(mapper.given["masks"]) == set(frame.cameras)
    assert not images.frames
    pipeline.process(replace(frame, lidars={}), requested=())
    assert len(images.frames) == 1
    detector.uses_proposals = True
    pipeline.process(frame, requested=())
    assert len(images.frames) == 2 and len(detector.proposals[-1]) == 1  # type: ignore[arg-type]
    assert detector.prepared == detector.frames


def test_disagreement_with_other_sensors_lowers_the_image_quality(frame: SensorFrame) -> None:
    name = next(iter(frame.cameras))
    pipeline = build_pipeline(detector=FakeDetector(), occupancy=FakeMapper())
    assert pipeline.process(frame).image_quality[name].value > 0.5
    perception = pipeline.process(frame, agreement={name: 0.0})
    assert perception.image_quality[name].value == 0.0
    assert perception.missing == {name}


def test_counts_are_prefixed_with_their_stage(frame: SensorFrame) -> None:
    pipeline = build_pipeline()
    assert not pipeline.counts
    swapped_limits = UltrasonicReading("sonar", frame.stamp_ns, "sonar", 1.0, 5.0, 0.2, 1.0)
    pipeline.process(replace(frame, ultrasonics={"sonar": swapped_limits}))
    assert pipeline.counts == {"occupancy.ultrasonic.bad_limits": 1}


def test_status_is_collected_from_stages_that_have_one() -> None:
    warning = StageStatus("network", Level.WARN, "runs on the CPU", {"engine": "torch"})
    pipeline = build_pipeline(detector=FakeDetector(status=(warning,)), segmenter=FakeSegmenter())
    assert pipeline.status == [warning]


def test_points_and_boxes_on_the_ego_vehicle_are_removed(frame: SensorFrame) -> None:
    def detect(frame: SensorFrame, cloud: Cloud) -> Boxes3D:
        assert not ((np.abs(cloud.points[:, 0]) < 2) & (np.abs(cloud.points[:, 1]) < 0.8)).any()
        car = 0.8, 4, 1.8, 1.6
        boxes = np.array([
            [0.5, 0.2, *car, 0], [0.4, -1.3, *car, -2.3], [2.3, 0.0, 0.9, 0.6, 0.6, 1.7, 1.0],
            [0.0, 1.9, *car, 0.1], [9, 0, *car, 0], [2.7, 0.0, 0.9, 0.6, 0.6, 1.7, 1.0],
        ])  # fmt: skip
        scores, labels = np.full(6, 0.9, np.float32), np.ones(6, np.int64)
        return Boxes3D(frame.stamp_ns, frame.base_frame, boxes.astype(np.float32), scores, labels)

    roof = np.stack(np.meshgrid(np.arange(-1.5, 1.5, 0.1), np.arange(-0.7, 0.7, 0.1), [1.4]), -1)
    roof = np.column_stack([roof.reshape(-1, 3), np.full(roof.size // 3, 0.2)]).astype(np.float32)
    name, sweep = next(iter(frame.lidars.items()))
    to_sensor = poses.inverse(frame.reference_from_sensor(name))
    roof[:, :3] = poses.transform_points(to_sensor, roof[:, :3])
    with_roof = LidarSweep(
        name, sweep.stamp_ns, sweep.frame_id, np.concatenate([sweep.points, roof])
    )
    loaded = replace(
        frame,
        lidars={name: with_roof},
        vehicle_footprint=VehicleFootprint(-2.4, 2.4, -0.9, 0.9),
    )
    pipeline = build_pipeline(
        PipelineConfig(occupancy="none", tracking=TrackingConfig(enabled=False)),
        detector=FakeDetector(detect),
    )
    boxes = pipeline.process(loaded).boxes.boxes
    assert boxes[:, :2].tolist() == pytest.approx(np.array([[0, 1.9], [9, 0], [2.7, 0]]))
    assert pipeline.counts["detector.ego_vehicle"] == 3
    assert len(segment_ground(replace(loaded, vehicle_footprint=None)).points) > len(
        segment_ground(loaded).points
    )
