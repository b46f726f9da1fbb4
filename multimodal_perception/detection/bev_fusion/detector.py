"""The BEV fusion detector: 3D boxes from any number of images, LiDAR sweeps and ultrasonic ranges.

The steps for each frame:

1. The image networks compute features and a range distribution of each image (`frame_images`).
2. The points of the current and of past sweeps become pillars; the class scores of 2D networks are
   features of the points (`past_sweep_buffer`, `painting`, `sweep_pillars`).
3. The images are lifted into the bird's-eye view and sampled at the pillars (`image_bev`).
4. The first stage predicts proposals, the second stage refines the best of them.
5. Non-maximum suppression removes duplicates, and the geometric check adds vehicles that the networks
   missed (see detection.bev_fusion.geometric_check).
6. If the model card names a network for it, the opinion of each sensor about each box is added
   (`opinions`).

Heights are measured from the estimated ground surface, so that slopes do not shift the networks' inputs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.boxes import (
    BevDetections,
    external_proposals,
    select_boxes,
    to_boxes3d,
)
from multimodal_perception.detection.bev_fusion.frame_images import (
    EncodedImage,
    ImageEncoders,
    ImagePreprocessor,
    ScaledImage,
    image_group_scores,
    paint_images,
)
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.geometric_check import add_unexplained_vehicles
from multimodal_perception.detection.bev_fusion.image_bev import ImageSet
from multimodal_perception.detection.bev_fusion.model_cards import read_detector_cards
from multimodal_perception.detection.bev_fusion.network_inputs import (
    image_arrays,
    point_arrays,
)
from multimodal_perception.detection.bev_fusion.opinion_features import Scene
from multimodal_perception.detection.bev_fusion.opinions import BoxAssessor, open_opinions
from multimodal_perception.detection.bev_fusion.painting import PaintedImage, paint_points
from multimodal_perception.detection.bev_fusion.past_sweep_buffer import PastSweepBuffer
from multimodal_perception.detection.bev_fusion.refinement import refine_proposals
from multimodal_perception.detection.bev_fusion.roi_features import PointIndex
from multimodal_perception.detection.bev_fusion.ultrasonic_channels import ultrasonic_readings
from multimodal_perception.detection.bev_fusion.warm_up import compile_kernels
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.detection.load_levels import (
    GEOMETRIC,
    HALF_IMAGES,
    NO_REFINEMENT,
    available_levels,
    check_level,
)
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.perception import Level, StageStatus
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import TensorSpec
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.engine_status import engine_status
from multimodal_perception.runtime.onnxruntime import available_cores
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
# A failure is reported in `status` for this long after it, in frame time.
FAILURE_REPORT_S = 5.0


class Network(Protocol):
    """Runs one network: arrays by tensor name in, arrays by tensor name out.

    A network may also have a method run_many, see runtime.engine.run_many.
    """

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def device(self) -> str: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Raises EngineError if no engine can run the network."""
        ...


@dataclass(frozen=True)
class _Failure:
    stamp_ns: int
    reason: str


@dataclass(frozen=True)
class _Prepared:
    """Images of a frame that a thread scales and then runs the image networks on."""

    frame: SensorFrame
    inputs: Future[list[ScaledImage]]
    encoded: Future[list[EncodedImage]]


@dataclass(frozen=True)
class _Inputs:
    """Inputs of the networks of one frame. sensors: of the images."""

    arrays: Arrays
    images: ImageSet
    sensors: tuple[str, ...]


class BevFusionDetector:
    """A Detector (see stages) that fuses all available sensors.

    If no engine can run a frame, the geometric detector processes it instead. Images whose network
    fails count as missing.

    image_networks: by modality. proposal_network: first stage. refinement_network: second stage, None
    if there is none. network_config: sizes of the networks.

    counts, by reason: fallback_geometric (frames that the geometric detector processed), failed_images
    (images whose network failed), surplus_images, uncalibrated_images and image_size_mismatch (see
    ImagePreprocessor), no_exteroceptive_data (frames without LiDAR points and images), dropped_pillars
    (see PillarConfig.max_pillars), past_sweeps.* (see PastSweepBuffer), external_proposals (proposals of
    the image detector that were used), geometric_check.added and geometric_check.removed, load.* (frames
    at a load level, and skipped images), failed_opinions (frames without the sensors' opinions).
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
        self.cards = cards = read_detector_cards(self.config.model, self.config.refinement)
        self.network_config = network = cards.network
        self.proposal_network: Network = open_model(cards.stage1, runtime)
        self.image_networks: dict[str, Network] = {
            modality: open_model(card, runtime) for modality, card in cards.images.items()
        }
        self.refinement_network: Network | None = (
            None if cards.refinement is None else open_model(cards.refinement, runtime)
        )
        self.opinions: BoxAssessor | None = open_opinions(self.config.opinions, cards, runtime)
        self._limits = {
            "camera": self.config.max_cameras,
            "thermal": self.config.max_thermal_cameras,
        }
        self._preprocessor = ImagePreprocessor(network, self._limits)
        self._encoders = ImageEncoders(self.image_networks)
        self._past_sweeps = PastSweepBuffer(network.past_sweeps, network.pillars.half_extent)
        # One thread prepares a frame (images) while the ground is segmented; the others run kernels.
        self._image_executor = ThreadPoolExecutor(1, "detector_images")
        self._executor = ThreadPoolExecutor(max(available_cores(), 2), "detector_inputs")
        self._prepared: _Prepared | None = None
        self.fallback = fallback or GeometricDetector()
        self._own_counts: Counter[str] = Counter()
        self._last_failure: _Failure | None = None
        self._stamp_ns = 0
        self._load_level = 0
        self._frames = 0
        compile_kernels(network)

    # --- Inputs that the detector uses, counts and status

    @property
    def uses_proposals(self) -> bool:
        """Whether detect() uses 3D proposals or 2D boxes of the image detector."""
        return self._uses_external_proposals or self.network_config.painting

    @property
    def uses_masks(self) -> bool:
        """Whether detect() uses segmentation masks."""
        return self.network_config.painting

    @property
    def _uses_external_proposals(self) -> bool:
        return self.config.external_proposals and self.refinement_network is not None

    @property
    def counts(self) -> dict[str, int]:
        """Counts by reason, see the docstring of the class."""
        counts = Counter(self._own_counts)
        for part in (self._preprocessor.counts, self._encoders.counts):
            counts.update(dict(part))
        counts.update({f"past_sweeps.{k}": n for k, n in dict(self._past_sweeps.counts).items()})
        return {name: count for name, count in counts.items() if count}

    @property
    def failures(self) -> int:
        """Number of frames and images that no engine could process."""
        return self._own_counts["fallback_geometric"] + self._encoders.counts["failed_images"]

    @property
    def status(self) -> tuple[StageStatus, ...]:
        """State of the detector and of each of its networks.

        The detector's level is WARN for FAILURE_REPORT_S of frame time after a failure.
        """
        networks = [
            self.proposal_network, self.refinement_network, *self.image_networks.values(),
            getattr(self.opinions, "network", None),
        ]  # fmt: skip
        level, message = Level.OK, "ok"
        values: dict[str, object] = {"model": self.config.model, **self.counts}
        failure = self._last_failure
        if failure is not None:
            age_s = (self._stamp_ns - failure.stamp_ns) / NANOSECONDS_PER_SECOND
            values["last_failure"] = failure.reason
            values["last_failure_stamp_ns"] = failure.stamp_ns
            if 0.0 <= age_s <= FAILURE_REPORT_S:
                level, message = Level.WARN, failure.reason
        return (
            StageStatus("fusion_detector", level, message, values),
            *(engine_status(network) for network in networks if network is not None),
        )

    def sensor_use(self, rig: Rig) -> SensorUse:
        """All LiDARs and ultrasonic sensors of a rig, and as many images as the limits allow."""
        limits = {
            Modality.CAMERA: ("camera", "cameras", "max_cameras"),
            Modality.THERMAL: ("thermal", "thermal cameras", "max_thermal_cameras"),
        }
        uses = [SensorUse(of_modalities(rig, Modality.LIDAR, Modality.ULTRASONIC))]
        for modality, (key, what, parameter) in limits.items():
            if key in self.image_networks:
                names = tuple(rig.sensors_of(modality))
                reason = f"{what}; increase pipeline.fusion.{parameter} to use all of them"
                use = limited(names, self._limits[key], what)
                uses.append(
                    SensorUse(use.used, dict.fromkeys(use.surplus, f"{self._limits[key]} {reason}"))
                )
        # The number of sensors is not fixed by the training, so only the modalities are compared.
        notes = tuple(training_rig_notes(self.cards.stage1, rig, (Modality.LIDAR,)))
        return merged(*uses, SensorUse(notes=notes))

    @property
    def load_levels(self) -> tuple[str, ...]:
        """Names of the load levels, from full accuracy to the fastest."""
        return available_levels(bool(self.image_networks), self.refinement_network is not None)

    def set_load_level(self, level: int) -> None:
        """Use load_levels[level] from the next frame on. Raises ValueError."""
        self._load_level = check_level(level, self.load_levels)

    # --- One frame

    def prepare(self, frame: SensorFrame) -> None:
        """Start the image networks on a thread; detect() of the same frame uses their outputs.

        Calling it is optional.
        """
        if not self._saves(GEOMETRIC):
            inputs = self._image_executor.submit(self._scale_images, frame)
            encoded = self._image_executor.submit(self._encode_images, frame.stamp_ns, inputs)
            self._prepared = _Prepared(frame, inputs, encoded)

    def add_past_sweep(self, frame: SensorFrame, cloud: Cloud) -> None:
        """Store the points of a frame as a past sweep, without detecting objects in it."""
        self._past_sweeps.add(frame, cloud)

    def clear_past_sweeps(self) -> None:
        """Remove all past sweeps."""
        self._past_sweeps.clear()

    def detect(
        self,
        frame: SensorFrame,
        cloud: Cloud,
        proposals: Boxes3D | None = None,
        image_results: ImageResults | None = None,
    ) -> Boxes3D:
        """Boxes in base_link at the frame's stamp, highest score first, with covariances.

        Velocities are over ground; there are none without odometry. proposals: boxes of another
        detector in base_link; used only with FusionConfig.external_proposals and a refinement network.
        image_results: paints the points and the images, if the networks were trained with painting.
        """
        self._stamp_ns = frame.stamp_ns
        self._frames += 1
        level = self.load_levels[self._load_level]
        if self._load_level:
            self._own_counts[f"load.{level}"] += 1
        if level == GEOMETRIC:
            self._past_sweeps.add(frame, cloud)
            return self.fallback.detect(frame, cloud)
        geometric = None
        if self.config.geometric_check and len(cloud.points):
            geometric = self._executor.submit(self.fallback.detect, frame, cloud)
        pending_index = self._executor.submit(
            PointIndex.build, cloud.ground_relative_points, self.network_config.pillars.half_extent
        )
        inputs = self._inputs(frame, cloud, image_results)
        if inputs is None:
            self._own_counts["no_exteroceptive_data"] += 1
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        try:
            found, bev_features = self._propose(inputs.arrays)
            if self.refinement_network is not None and not self._saves(NO_REFINEMENT):
                if proposals is not None and self._uses_external_proposals:
                    external = external_proposals(proposals, self.cards.classes, cloud.ground)
                    self._own_counts["external_proposals"] += len(external)
                    found = found.concatenate(external)
                index = pending_index.result()
                found = refine_proposals(
                    self.refinement_network, found, bev_features, index, inputs.images,
                    self.network_config, self.cards.classes, self._executor,
                )  # fmt: skip
        except EngineError as error:
            self._own_counts["fallback_geometric"] += 1
            self._report(frame.stamp_ns, f"{error}; the geometric detector is used instead")
            return geometric.result() if geometric else self.fallback.detect(frame, cloud)
        chosen = select_boxes(
            found, self.cards.calibration, self.config.min_score, self.config.nms_iou
        )
        result = to_boxes3d(
            chosen,
            self.cards.classes,
            cloud.ground,
            frame.stamp_ns,
            frame.base_frame,
            with_velocities=frame.odom_from_base is not None,
        )
        if geometric is not None:
            result = self._check(result, geometric.result())
        if self.opinions is None or self._load_level:
            return result
        images = dict(zip(inputs.sensors, inputs.images.images, strict=True))
        return self._with_evidence(result, Scene(frame, cloud, pending_index.result(), images))

    def _with_evidence(self, boxes: Boxes3D, scene: Scene) -> Boxes3D:
        """The boxes with the opinions of all sensors; without them if the network fails."""
        assert self.opinions is not None
        try:
            return replace(boxes, evidence=self.opinions.assess(boxes, scene))
        except EngineError as error:
            self._own_counts["failed_opinions"] += 1
            self._report(
                scene.frame.stamp_ns, f"{error}; the boxes have no opinions of the sensors"
            )
            return boxes

    def _saves(self, name: str) -> bool:
        """Whether the current load level includes the savings of the level `name`."""
        levels = self.load_levels
        return name in levels and self._load_level >= levels.index(name)

    def _report(self, stamp_ns: int, reason: str) -> None:
        self._last_failure = _Failure(stamp_ns, reason)
        log.warning("fusion detector: %s", reason)

    def _scale_images(self, frame: SensorFrame) -> list[ScaledImage]:
        if not self.image_networks:
            return []
        select = self._alternate if self._saves(HALF_IMAGES) else None
        return self._preprocessor.process(frame, select)

    def _encode_images(
        self, stamp_ns: int, inputs: Future[list[ScaledImage]]
    ) -> list[EncodedImage]:
        encoded = self._encoders.encode(inputs.result())
        for reason in self._encoders.failures:
            self._report(stamp_ns, reason)
        return encoded

    def _alternate(self, names: Sequence[str]) -> Sequence[str]:
        """Every second name, so that each image is used in every second frame."""
        chosen = names[self._frames % 2 :: 2] if len(names) > 1 else names
        self._own_counts["load.skipped_images"] += len(names) - len(chosen)
        return chosen

    def _inputs(
        self, frame: SensorFrame, cloud: Cloud, image_results: ImageResults | None
    ) -> _Inputs | None:
        """Inputs of the first stage; None without LiDAR points and images."""
        prepared = self._take_prepared(frame)
        past = self._past_sweeps.past_sweeps(frame) if len(cloud.points) else []
        self._past_sweeps.add(frame, cloud)
        n = self.network_config
        scores = {}
        if n.painting and image_results is not None:
            scores = image_group_scores(prepared.inputs.result(), image_results)
        painting = None
        if scores:
            views = {i.sensor: i.view for i in prepared.inputs.result()}
            painted = [PaintedImage(views[sensor], s) for sensor, s in scores.items()]
            painting = paint_points(cloud.points[:, :3], cloud.height, painted)
        points = cloud.ground_relative_points
        # These are computed while the image networks run on the other thread.
        arrays, pillars = point_arrays(points, past, painting, ultrasonic_readings(frame), n)
        encoded = prepared.encoded.result()
        if not len(points) and not encoded:
            return None
        self._own_counts["dropped_pillars"] += pillars.overflow
        images = ImageSet(paint_images(encoded, scores, n), cloud.ground)
        arrays |= image_arrays(images, pillars, n, self._executor)
        return _Inputs(
            {name: values[None] for name, values in arrays.items()},
            images,
            tuple(e.sensor for e in encoded),
        )

    def _take_prepared(self, frame: SensorFrame) -> _Prepared:
        """The work that prepare() started for a frame, or start it now."""
        if self._prepared is None or self._prepared.frame is not frame:
            self.prepare(frame)
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        return prepared

    def _propose(self, arrays: Arrays) -> tuple[BevDetections, NDArray[np.float32]]:
        """Proposals and the BEV map. Raises EngineError."""
        outputs = self.proposal_network.run(
            {name: arrays[name] for name in self.proposal_network.inputs}
        )
        names = ("boxes", "scores", "labels", "velocities", "variances", "log_variances")
        return BevDetections(*(outputs[name][0] for name in names)), outputs["bev_features"]

    def _check(self, boxes: Boxes3D, geometric: Boxes3D) -> Boxes3D:
        checked = add_unexplained_vehicles(boxes, geometric, self.config.geometric_check_min_score)
        self._own_counts["geometric_check.added"] += checked.added
        self._own_counts["geometric_check.removed"] += checked.removed
        return checked.boxes
