"""The fusion detector: 3D boxes from LiDAR, camera, thermal and ultrasonic data, any of which may miss.

A two-stage detector after LoGoNet (Li et al., CVPR 2023). The steps for each frame:

1. The image networks compute feature maps of the available images.
2. The proposal network (pillars, Global Fusion, BEV backbone, centre heads) predicts proposals.
3. The refinement network (Local Fusion, Feature Dynamic Aggregation) refines the best proposals.
4. Non-maximum suppression removes duplicates.
5. The geometric check adds vehicles that the networks missed (see geometric_check).

Heights are measured from the estimated ground surface, so that slopes do not shift the networks' inputs.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.detector import Network
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.geometric_check import add_unexplained_vehicles
from multimodal_perception.detection.bev_fusion.model_cards import (
    class_indices,
    find_refinement_card,
)
from multimodal_perception.detection.bev_fusion.proposals import (
    UNREFINED_SCORE_EXPONENT,
    combine_scores,
    shift_heights,
)
from multimodal_perception.detection.bev_fusion.roi_features import PointIndex
from multimodal_perception.detection.bev_fusion.ultrasonic_channels import ultrasonic_readings
from multimodal_perception.detection.fusion.external_proposals import (
    Detections,
    add_proposals,
)
from multimodal_perception.detection.fusion.image_features import run_image_networks
from multimodal_perception.detection.fusion.model_cards import (
    PROPOSALS,
    REFINEMENT,
    find_image_cards,
    find_without_lidar_card,
    merge_network_configs,
    read_network_config,
)
from multimodal_perception.detection.fusion.network_inputs import (
    ImagePreprocessor,
    ImageViews,
    proposal_inputs,
    refinement_inputs,
)
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.load_levels import (
    FULL,
    GEOMETRIC,
    NO_REFINEMENT,
    alternate_images,
    available_levels,
    check_level,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.perception import Level, StageStatus
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_use import (
    SensorUse,
    limited,
    merged,
    of_modalities,
    training_rig_notes,
)
from multimodal_perception.stages import ImageResults

log = logging.getLogger(__name__)
# Proposals whose BEV overlap (IoU) is larger are considered the same object before refinement.
PROPOSAL_NMS_IOU = 0.3
# A failure is reported in `status` for this long after it, in frame time.
FAILURE_REPORT_S = 5.0


@dataclass(frozen=True)
class Failure:
    """A frame that could not be processed as configured. reason: for logs and diagnostics."""

    stamp_ns: int
    reason: str


class FusionDetector:
    """A Detector (see stages) that fuses all available sensors.

    If no engine can run a frame, the geometric detector processes it instead. Images whose network
    fails count as missing.

    image_networks: by modality, empty without image fusion. proposal_network: first stage.
    proposal_network_without_lidar: replaces it in frames without LiDAR points; None if there is none.
    refinement_network: second stage, None if there is none. network_config: sizes of the networks.

    counts, by reason: fallback_geometric (frames that the geometric detector processed), failed_images
    (images whose network failed), no_exteroceptive_data (frames without LiDAR points and images),
    dropped_pillars (see PillarConfig.max_pillars), external_proposals (proposals of the image detector
    that were used), geometric_check.added and geometric_check.removed (boxes that the geometric check
    added and removed), load.LEVEL (frames at that load level), load.skipped_images. last_failure: most
    recent failure, None if there was none.
    """

    name = "fusion"

    def __init__(
        self,
        config: FusionConfig | None = None,
        runtime: RuntimeConfig | None = None,
        fallback: GeometricDetector | None = None,
    ) -> None:
        """Raises UserError for a card that cannot be used, or if no engine can run it."""
        self.config = config or FusionConfig()
        card = load_card(self.config.model)
        network = read_network_config(card, PROPOSALS)
        self._classes = class_indices(card)
        self.proposal_network: Network = open_model(card, runtime)
        self.image_networks: dict[str, Network] = {
            modality: open_model(image_card, runtime)
            for modality, image_card in find_image_cards(card, network).items()
        }
        other = find_without_lidar_card(card, network)
        self.proposal_network_without_lidar: Network | None = (
            None if other is None else open_model(other, runtime)
        )
        self.refinement_network: Network | None = None
        second = find_refinement_card(card, self.config.refinement)
        if second is not None:
            refinement = read_network_config(second, REFINEMENT)
            network = merge_network_configs(network, refinement, second, card)
            self.refinement_network = open_model(second, runtime)
        self.network_config = n = network
        self._preprocessor = ImagePreprocessor(
            n.cameras, n.thermal_cameras, n.camera_size, n.thermal_size
        )
        # Scales images during ground segmentation, and builds pillars while the image networks run.
        self._executor = ThreadPoolExecutor(1, "detector_inputs")
        self._prepared: tuple[SensorFrame, Future[tuple[ImageViews, Arrays]]] | None = None
        self.fallback = fallback or GeometricDetector()
        self.counts: Counter[str] = Counter()
        self.last_failure: Failure | None = None
        self._stamp_ns = 0
        self._level_name = FULL
        self._frames = 0

    @property
    def load_levels(self) -> tuple[str, ...]:
        """See stages.LoadAdaptive."""
        return available_levels(bool(self.image_networks), self.refinement_network is not None)

    def set_load_level(self, level: int) -> None:
        """See stages.LoadAdaptive."""
        self._level_name = self.load_levels[check_level(level, self.load_levels)]

    @property
    def uses_proposals(self) -> bool:
        """Whether detect() uses external proposals."""
        return self.config.external_proposals and self.refinement_network is not None

    @property
    def uses_masks(self) -> bool:
        """Whether detect() uses segmentation masks."""
        return False

    @property
    def failures(self) -> int:
        """Number of frames and images that no engine could process."""
        return self.counts["fallback_geometric"] + self.counts["failed_images"]

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """State of the detector and of each of its networks.

        The detector's level is WARN for FAILURE_REPORT_S of frame time after a failure.
        """
        networks = [
            self.proposal_network,
            self.proposal_network_without_lidar,
            self.refinement_network,
            *self.image_networks.values(),
        ]
        level, message = Level.OK, "ok"
        values: dict[str, object] = {"model": self.config.model, **self.counts}
        if self.last_failure is not None:
            age_s = (self._stamp_ns - self.last_failure.stamp_ns) / NANOSECONDS_PER_SECOND
            values["last_failure"] = self.last_failure.reason
            values["last_failure_stamp_ns"] = self.last_failure.stamp_ns
            if 0.0 <= age_s <= FAILURE_REPORT_S:
                level, message = Level.WARN, self.last_failure.reason
        return (
            StageStatus("fusion_detector", level, message, values),
            *(engine_status(network) for network in networks if network is not None),
        )

    def sensor_use(self, rig: Rig) -> SensorUse:
        """All LiDARs and ultrasonic sensors of a rig, and as many images as the networks take."""
        network = self.network_config
        limits = {
            Modality.CAMERA: ("camera", network.cameras, "cameras"),
            Modality.THERMAL: ("thermal", network.thermal_cameras, "thermal cameras"),
        }
        modalities = [Modality.LIDAR, Modality.ULTRASONIC]
        uses = []
        for modality, (key, limit, what) in limits.items():
            if key in self.image_networks:
                modalities.append(modality)
                uses.append(limited(tuple(rig.sensors_of(modality)), limit, what))
        points = SensorUse(of_modalities(rig, Modality.LIDAR, Modality.ULTRASONIC))
        notes = tuple(training_rig_notes(load_card(self.config.model), rig, modalities))
        return merged(points, *uses, SensorUse(notes=notes))

    def prepare(self, frame: SensorFrame) -> None:
        """Start scaling the frame's images on a thread; detect() of the same frame uses the result.

        Calling it is optional.
        """
        if self._level_name != GEOMETRIC:
            self._prepared = frame, self._executor.submit(self._preprocess_images, frame)

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        """Boxes in base_link at the frame's stamp, highest score first.

        proposals: boxes of another detector in base_link. They are used only if
        FusionConfig.external_proposals is set and there is a refinement network.
        """
        self._stamp_ns = frame.stamp_ns
        self._frames += 1
        if self._level_name != FULL:
            self.counts[f"load.{self._level_name}"] += 1
        if self._level_name == GEOMETRIC:
            return self.fallback.detect(frame, cloud)
        refine = self.refinement_network is not None and self._level_name != NO_REFINEMENT
        points = cloud.ground_relative_points
        available, pixels = self._views_and_pixels(frame)
        available = dataclasses.replace(available, ground=cloud.ground)
        make_inputs = partial(
            proposal_inputs,
            points,
            ultrasonics=ultrasonic_readings(frame),
            config=self.network_config.pillars,
            ray_samples=self.network_config.bev_to_image_attention,
        )
        pending = self._executor.submit(make_inputs, views=available)
        index = self._executor.submit(
            PointIndex.build, points, self.network_config.pillars.half_extent
        )
        geometric = None
        if self.config.geometric_check and len(cloud.points):
            geometric = self._executor.submit(self.fallback.detect, frame, cloud)
        views, feature_maps = self._run_image_networks(available, pixels, frame.stamp_ns)
        arrays, overflow = pending.result()
        if views.count < available.count:
            arrays, overflow = make_inputs(views=views)
        if not len(cloud.points) and not views.count:
            self.counts["no_exteroceptive_data"] += 1
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        self.counts["dropped_pillars"] += overflow
        inputs = {name: values[None] for name, values in arrays.items()} | feature_maps
        try:
            found, bev_features = self._propose(inputs, has_lidar=len(points) > 0)
            if refine:
                if proposals is not None and self.config.external_proposals:
                    chosen = proposals.select(np.isin(proposals.labels, self._classes))
                    self.counts["external_proposals"] += len(chosen)
                    found = add_proposals(found, chosen, self._classes, cloud.ground)
                found = self._refine(found, bev_features, index.result(), views, feature_maps)
        except EngineError as error:
            self.counts["fallback_geometric"] += 1
            self._report(frame.stamp_ns, f"{error}; the geometric detector is used instead")
            return geometric.result() if geometric else self.fallback.detect(frame, cloud)
        boxes, scores, labels = found
        keep = scores >= self.config.min_score
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        kept = non_maximum_suppression(boxes, scores, self.config.nms_iou)
        result = Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            shift_heights(boxes[kept], cloud.ground, 1.0),
            scores[kept],
            self._classes[labels[kept]],
        )
        return result if geometric is None else self._check(result, geometric.result())

    def _check(self, boxes: Boxes3D, geometric: Boxes3D) -> Boxes3D:
        checked = add_unexplained_vehicles(boxes, geometric, self.config.geometric_check_min_score)
        self.counts["geometric_check.added"] += checked.added
        self.counts["geometric_check.removed"] += checked.removed
        return checked.boxes

    def _report(self, stamp_ns: int, reason: str) -> None:
        self.last_failure = Failure(stamp_ns, reason)
        log.warning("fusion detector: %s", reason)

    def _views_and_pixels(self, frame: SensorFrame) -> tuple[ImageViews, Arrays]:
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared[0] is frame:
            return prepared[1].result()
        return self._preprocess_images(frame)

    def _preprocess_images(self, frame: SensorFrame) -> tuple[ImageViews, Arrays]:
        """Views and pixels of a frame. Without image networks all images count as missing."""
        if self._level_name != FULL:
            frame, skipped = alternate_images(frame, self._frames)
            self.counts["load.skipped_images"] += skipped
        views, pixels = self._preprocessor.process(frame)
        if not self.image_networks:
            views = dataclasses.replace(
                views, cameras=[None] * len(views.cameras), thermals=[None] * len(views.thermals)
            )
        return views, pixels

    def _run_image_networks(
        self, views: ImageViews, pixels: Arrays, stamp_ns: int
    ) -> tuple[ImageViews, dict[str, NDArray[np.float32]]]:
        """See run_image_networks; failures are counted and reported."""

        def report(modality: str, error: EngineError) -> None:
            self.counts["failed_images"] += 1
            self._report(stamp_ns, f"{error}; a {modality} image is not used")

        channels = self.network_config.channels
        return run_image_networks(self.image_networks, views, pixels, channels, report)

    def _propose(self, inputs: Arrays, has_lidar: bool) -> tuple[Detections, NDArray[np.float32]]:
        """Proposals, heights above the ground, and the BEV map. Raises EngineError."""
        network = self.proposal_network
        if not has_lidar and self.proposal_network_without_lidar is not None:
            network = self.proposal_network_without_lidar
        outputs = network.run({name: inputs[name] for name in network.inputs})
        found = outputs["boxes"][0], outputs["scores"][0], outputs["labels"][0]
        return found, outputs["bev_features"]

    def _refine(
        self,
        found: Detections,
        bev_features: NDArray[np.float32],
        index: PointIndex,
        views: ImageViews,
        feature_maps: dict[str, NDArray[np.float32]],
    ) -> Detections:
        """Refined proposals, followed by those for which there was no room. Raises EngineError."""
        assert self.refinement_network is not None
        boxes, scores, labels = found
        n = self.network_config
        order = non_maximum_suppression(boxes, scores, PROPOSAL_NMS_IOU)
        chosen, rest = order[: n.refined_proposals], order[n.refined_proposals :]
        # The input has a fixed size: proposals are repeated, and the repetitions are cut off below.
        repeated = np.resize(chosen, n.refined_proposals)
        arrays = refinement_inputs(
            boxes[repeated],
            scores[repeated],
            labels[repeated],
            len(self._classes),
            index,
            views,
            n.pillars.half_extent,
        )
        inputs = {name: values[None] for name, values in arrays.items()} | feature_maps
        inputs["bev_features"] = bev_features
        outputs = self.refinement_network.run(
            {k: inputs[k] for k in self.refinement_network.inputs}
        )
        confidences = outputs["confidences"][0, : len(chosen)]
        classes = confidences.argmax(axis=1)
        is_pedestrian = self._classes[classes] == CLASS_NAMES.index("pedestrian")
        refined_scores = combine_scores(scores[chosen], confidences.max(axis=1), is_pedestrian)
        rest_scores = scores[rest] ** UNREFINED_SCORE_EXPONENT
        return (
            np.concatenate([outputs["refined_boxes"][0, : len(chosen)], boxes[rest]]),
            np.concatenate([refined_scores, rest_scores]).astype(np.float32),
            np.concatenate([classes, labels[rest]]),
        )
