"""The order of the stages: one SensorFrame in, one Perception out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from multimodal_perception import pipeline_reports, stages
from multimodal_perception.detection.detect_objects import detect_objects
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import ImageQuality, Perception, SensorHealth, StageStatus
from multimodal_perception.pointcloud.ground_segmentation import Cloud
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
    evidence: stages.EvidenceCombiner | None = None
    segmenter: stages.Segmenter | None = None
    image_fusion: stages.ImageFusion | None = None
    near_field: stages.NearFieldEstimator | None = None
    occupancy: stages.OccupancyMapper | None = None
    choice_status: tuple[StageStatus, ...] = ()
    disabled: frozenset[str] = frozenset()
    own_counts: Counter[str] = field(default_factory=Counter, init=False)
    _removed: frozenset[str] = field(default=frozenset(), init=False)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)

    counts = property(pipeline_reports.counts)
    status = property(pipeline_reports.status)
    evidence_status = property(pipeline_reports.evidence_status)
    configured = property(pipeline_reports.configured)
    sensor_use = pipeline_reports.sensor_use
    reset_occupancy = pipeline_reports.reset_occupancy

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
        missing. on_boxes: called with the tracked boxes before the grid; not with a disabled detector.
        """
        disabled = self.disabled
        if disabled != self._removed:
            return pipeline_reports.without(self, disabled).process(
                frame, health, requested=requested, agreement=agreement, on_boxes=on_boxes
            )
        timed, health = StageTimer(), health or {}
        detector = None if "detector" in disabled else self.detector
        frozen: Mapping[str, float] = {}
        quality: Mapping[str, ImageQuality] = {}
        boxes2d: stages.BoxesBySensor = {}
        masks: stages.MasksBySensor = {}
        fused: stages.ImagesBySensor = {}
        near = grid = odom_grid = None
        projected = boxes = Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        with timed("total"):
            if self.frozen_sensors is not None:
                frozen = self.frozen_sensors.check(frame)
                frame = self.frozen_sensors.drop_frozen(frame, frozen)
            # The ground needs no image: it is segmented while the images are assessed.
            ground = self._thread.submit(timed.run, "ground", self.point_cloud, frame)
            if "image_quality" not in disabled:
                with timed("image_quality"):
                    quality = self.image_quality.assess(frame, agreement)
                    frame = self.image_quality.drop_low_quality(frame, quality)
                    health = stages.with_image_quality(health, quality)
            if detector is not None:
                detector.prepare(frame)
            cloud = ground.result()
            reliable = cloud.reliable  # without rain and fog, which still end the rays of the grid
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
                    images = ImageResults(boxes2d, masks)
                    boxes = detect_objects(
                        detector, frame, reliable, projected, images, self.own_counts
                    )
                if self.tracker is not None:
                    with timed("track"):
                        boxes = self.tracker.update(boxes, frame)
                if self.evidence is not None and boxes.evidence is not None:
                    with timed("evidence"):
                        boxes = self.evidence.update(boxes)
                if on_boxes is not None:
                    with timed("on_boxes"):
                        on_boxes(boxes)
            if self.image_fusion is not None and Output.FUSED_IMAGES in requested:
                with timed("fuse_images"):
                    fused = self.image_fusion.fuse(frame)
            if self.occupancy is not None:
                if self.near_field is not None:
                    with timed("near_field"):
                        near = self.near_field.update(frame)
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
            disabled=disabled,
        )
