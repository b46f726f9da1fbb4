"""The order of the stages: one SensorFrame in, one Perception out."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from multimodal_perception import stages
from multimodal_perception.detection.ego_vehicle import remove_ego_vehicle
from multimodal_perception.detection.images.ground_projection import merge_with_nms
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import (
    ImageQuality,
    Perception,
    SensorHealth,
    StageStatus,
)
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_use import RigUse
from multimodal_perception.stages import ImageResults, Output, StageTimer


@dataclass
class Pipeline:
    """Runs the stages in order and measures the time of each.

    Build one with `pipeline_builder.build_pipeline`. Stages that are None are skipped. Frames must be
    in the order of their stamps. `counts` and `status` may be read from another thread.
    choice_status: how the stages were chosen, for diagnostics. disabled: names of stages (keys of
    stages.ATTRIBUTES) that are skipped; may be replaced from another thread, from the next frame on.
    """

    detector: stages.Detector
    point_cloud: Callable[[SensorFrame], Cloud]
    box_projection: stages.BoxProjection
    image_quality: stages.QualityMonitor
    frozen_sensors: stages.FrozenSensors | None = None
    image_detector: stages.ImageDetector | None = None
    tracker: stages.BoxTracker | None = None
    segmenter: stages.Segmenter | None = None
    image_fusion: stages.ImageFusion | None = None
    near_field: stages.NearFieldEstimator | None = None
    occupancy: stages.OccupancyMapper | None = None
    choice_status: tuple[StageStatus, ...] = ()
    disabled: frozenset[str] = frozenset()
    _thread: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1), init=False)
    _own_counts: Counter[str] = field(default_factory=Counter, init=False)

    def process(
        self,
        frame: SensorFrame,
        health: Mapping[str, SensorHealth] | None = None,
        *,
        requested: Collection[Output] = stages.ALL_OUTPUTS,
        agreement: Mapping[str, float] | None = None,
        on_boxes: Callable[[Boxes3D], None] | None = None,
    ) -> Perception:
        """Process one frame.

        health: by sensor; sensors with problems get a lower weight in the occupancy grid. requested:
        optional outputs to compute; others are computed only if another stage needs them. agreement:
        by sensor, 0 to 1, from the calibration monitor; lowers the quality of images that disagree
        with other sensors. Images below the minimum quality and sweeps of frozen LiDARs count as
        missing. on_boxes: called with the boxes as soon as they are tracked, before the occupancy grid
        is computed; not called while the detector is disabled.
        """
        disabled = self.disabled
        enabled = self._without(disabled) if disabled else self
        return enabled._process(frame, health or {}, requested, agreement, on_boxes)

    def _process(
        self,
        frame: SensorFrame,
        health: Mapping[str, SensorHealth],
        requested: Collection[Output],
        agreement: Mapping[str, float] | None,
        on_boxes: Callable[[Boxes3D], None] | None,
    ) -> Perception:
        timed = StageTimer()
        detector = None if "detector" in self.disabled else self.detector
        quality: Mapping[str, ImageQuality] = {}
        with timed("total"):
            frozen: Mapping[str, float] = {}
            if self.frozen_sensors is not None:
                frozen = self.frozen_sensors.check(frame)
                frame = self.frozen_sensors.drop_frozen(frame, frozen)
            # The ground needs no image: it is segmented while the images are assessed.
            ground = self._thread.submit(self._segment_ground, frame, timed)
            if "image_quality" not in self.disabled:
                with timed("image_quality"):
                    quality = self.image_quality.assess(frame, agreement)
                    frame = self.image_quality.drop_low_quality(frame, quality)
                    health = stages.with_image_quality(health, quality)
            if detector is not None:
                detector.prepare(frame)
            cloud = ground.result()
            reliable = cloud.reliable  # without rain and fog, which still end the rays of the grid
            boxes2d: stages.BoxesBySensor = {}
            masks: stages.MasksBySensor = {}
            projected = boxes = Boxes3D.empty(frame.stamp_ns, frame.base_frame)
            needed = stages.needed_outputs(frame, requested, detector, self.occupancy)
            if self.image_detector is not None and Output.IMAGE_BOXES in needed:
                with timed("image_detect"):
                    boxes2d = self.image_detector.detect(frame)
                    projected = self.box_projection(boxes2d, frame, reliable)
            if self.segmenter is not None and Output.SEGMENTATIONS in needed:
                with timed("segment"):
                    masks = self.segmenter.segment(frame)
            if detector is not None:
                with timed("detect"):
                    boxes = self._detect(frame, reliable, projected, ImageResults(boxes2d, masks))
                if self.tracker is not None:
                    with timed("track"):
                        boxes = self.tracker.update(boxes, frame)
                if on_boxes is not None:
                    with timed("on_boxes"):
                        on_boxes(boxes)
            fused: stages.ImagesBySensor = {}
            near = grid = odom_grid = None
            if self.image_fusion is not None and Output.FUSED_IMAGES in requested:
                with timed("fuse_images"):
                    fused = self.image_fusion.fuse(frame)
            if self.occupancy is not None and self.near_field is not None:
                with timed("near_field"):
                    near = self.near_field.update(frame)
            if self.occupancy is not None:
                with timed("occupancy"):
                    grid = self.occupancy.update(
                        frame, cloud, boxes=boxes, masks=masks, health=health, near_field=near
                    )
                    odom_grid = self.occupancy.odom_grid(frame.stamp_ns)
        return Perception(
            frame.stamp_ns,
            frame.base_frame,
            boxes,
            occupancy=grid,
            odom_occupancy=odom_grid,
            segmentations=masks,
            stage_ms=timed.milliseconds,
            missing=frame.missing,
            health=health,
            image_quality=quality,
            fused_images=fused,
            boxes2d=boxes2d,
            frozen=frozen,
            cloud=reliable if frame.lidars else None,
            disabled=self.disabled,
        )

    def _segment_ground(self, frame: SensorFrame, timed: StageTimer) -> Cloud:
        with timed("ground"):
            return self.point_cloud(frame)

    @property
    def counts(self) -> Mapping[str, int]:
        """Inputs that the stages dropped or could not use, by `stage.sensor.reason`."""
        return stages.collect_counts(self._stages()) | dict(self._own_counts)

    @property
    def status(self) -> list[StageStatus]:
        """Status of the stages, such as the inference engines in use, for diagnostics."""
        return [*self.choice_status, *stages.collect_status(self._stages())]

    @property
    def configured(self) -> frozenset[str]:
        """Names of the stages that the pipeline has, enabled or not."""
        return frozenset(name for name, stage in self._stages().items() if stage is not None)

    def reset_occupancy(self) -> bool:
        """Delete the evidence of earlier frames. Call it between two frames.

        Returns False if the occupancy stage is not stages.Resettable.
        """
        if isinstance(self.occupancy, stages.Resettable):
            self.occupancy.reset()
            return True
        return False

    def sensor_use(self, rig: Rig) -> RigUse:
        """Which sensors of a rig no stage uses, and which images exceed the inputs of a network."""
        return stages.collect_sensor_use(rig, self._stages())

    def _detect(
        self, frame: SensorFrame, cloud: Cloud, projected: Boxes3D, images: ImageResults
    ) -> Boxes3D:
        boxes = self.detector.detect(frame, cloud, projected, images)
        if not frame.lidars:
            boxes = merge_with_nms(boxes, projected)
        kept = remove_ego_vehicle(boxes, frame.vehicle_footprint)
        if len(kept) < len(boxes):
            self._own_counts["detector.ego_vehicle"] += len(boxes) - len(kept)
        return kept

    def _without(self, disabled: frozenset[str]) -> Pipeline:
        """A copy with the same stages except for the disabled ones.

        The detector and the image quality, which are not optional, stay and are skipped.
        """
        pipeline = copy.copy(self)
        pipeline.disabled = disabled
        for name in disabled - {"detector", "image_quality"}:
            setattr(pipeline, stages.ATTRIBUTES[name], None)
        return pipeline

    def _stages(self) -> dict[str, stages.Stage | None]:
        return {name: getattr(self, attribute) for name, attribute in stages.ATTRIBUTES.items()}
