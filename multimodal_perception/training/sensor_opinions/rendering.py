"""Features of the boxes of simulated drives, computed by the detector that also runs on the vehicle.

One .npz file for each drive. Arrays of N boxes: one for each modality with the features (N, slots, F)
float16; valid (N, len(SLOTS)) bool, slots with an opinion; faulty (N, len(SLOTS)) bool, slots of sensors
with a fault; truth (N,) int64, index into GROUPS of the object at the position of the box; groups (N,)
int64, index into GROUPS of the class of the box, -1 without a group; scores (N,) float32 of the
detector, NaN for boxes that were added.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from multimodal_perception.box_evidence import NOTHING, class_groups
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.network_config import FEATURE_STRIDE, PAINT_GROUPS
from multimodal_perception.detection.bev_fusion.opinion_features import (
    SLOTS,
    OpinionFeatures,
    Scene,
    compute_features,
)
from multimodal_perception.files import atomic_write
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.processes import WorkerPool
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.stages import ImageResults
from multimodal_perception.training.bev_fusion.drives import Rendering, open_drive
from multimodal_perception.training.bev_fusion.painting import (
    PaintingConfig,
    image_scores,
    object_scores,
)
from multimodal_perception.training.bev_fusion.samples import SEGMENT_OF_SEMANTIC, visible_cloud
from multimodal_perception.training.sensor_opinions.configuration import SensorOpinionsTraining
from multimodal_perception.training.sensor_opinions.faults import FaultyFrame, draw_fault

Arrays = dict[str, NDArray[Any]]
# A box belongs to the nearest label if that is within MATCH_DISTANCE, and to no label if all are farther
# than FREE_DISTANCE; boxes in between are not used. Metres.
MATCH_DISTANCE, FREE_DISTANCE = 2.0, 3.0
# Distance by which half of the added boxes are moved from a detection, metres.
SHIFT_M = (4.0, 10.0)
# The other half of the added boxes have their centres at LiDAR returns higher than this above the
# ground, metres.
MIN_RETURN_HEIGHT = 0.3
MIN_MASK_SCORE = 1e-4
RUNTIME = RuntimeConfig(device="cpu", precision="fp32")


class FeatureRecorder:
    """A BoxAssessor that keeps the features of the boxes, and of boxes that it adds.

    detector: the detector whose boxes are assessed. false_boxes: number of added boxes in each frame.
    boxes, features: of the last frame; None before the first one.
    """

    def __init__(self, detector: BevFusionDetector, false_boxes: int) -> None:
        self._config, self._count = detector.network_config, false_boxes
        self.rng = np.random.default_rng(0)
        self.boxes: Boxes3D | None = None
        self.features: OpinionFeatures | None = None

    def assess(self, boxes: Boxes3D, scene: Scene) -> None:
        """Keep the boxes, the added ones and their features; see BoxAssessor."""
        added = _added_boxes(boxes, scene, self._count, self.rng)
        self.boxes = Boxes3D.concatenate([boxes, added]) if len(added) else boxes
        self.features = compute_features(self.boxes.boxes, scene, self._config)


def render_features(
    seeds: Sequence[int],
    rig: Rig,
    frames: int,
    frame_interval: int,
    config: SensorOpinionsTraining,
    folder: Path,
    workers: int = 1,
) -> None:
    """Write the features of the drives of several seeds; existing files are kept. Raises UserError.

    rig, frames, frame_interval: see drives.Rendering. workers: processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not feature_path(folder, seed).exists()]
    tasks = [(seed, rig, frames, frame_interval, config, folder) for seed in missing]
    if workers == 1:
        for task in tqdm(tasks, "drives", unit="drive"):
            render_drive(*task)
        return
    with WorkerPool(workers) as pool:
        running = [pool.submit(render_drive, *task) for task in tasks]
        for done in tqdm(as_completed(running), "drives", total=len(running), unit="drive"):
            done.result()


def feature_path(folder: Path, seed: int) -> Path:
    """The file of a drive."""
    return folder / f"{seed:06d}.npz"


def render_drive(
    seed: int,
    rig: Rig,
    frames: int,
    frame_interval: int,
    config: SensorOpinionsTraining,
    folder: Path,
) -> None:
    """Write the features of one drive."""
    detector = _open_detector(config.detector, config.min_score)
    recorder = FeatureRecorder(detector, config.false_boxes)
    detector.opinions = recorder
    rendering = Rendering(rig, frames, frame_interval, detector.network_config)
    simulation = open_drive(seed, rendering)
    parts: list[Arrays] = []
    earlier: SensorFrame | None = None
    for index in rendering.indices(seed):
        rng = np.random.default_rng((config.loop.seed, seed, index))
        frame, truth = simulation[index], simulation.truth(index)
        faulty = FaultyFrame(frame)
        if rng.random() < config.fault_probability:
            faulty = draw_fault(frame, earlier, seed, rng)
        recorder.rng, recorder.boxes = rng, None
        painting = _simulated_masks(frame, truth, config.painting, rng)
        _detect(detector, simulation, index, faulty.frame, painting)
        if recorder.boxes is not None:
            assert recorder.features is not None
            parts.append(_rows(recorder.boxes, recorder.features, faulty, truth.boxes))
        earlier = frame
    arrays = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]} if parts else {}
    with atomic_write(feature_path(folder, seed)) as file:
        np.savez(file, allow_pickle=False, **arrays)


@lru_cache(maxsize=1)
def _open_detector(model: str, min_score: float) -> BevFusionDetector:
    """The detector of this process."""
    config = FusionConfig(model, min_score=min_score, opinions="none")
    return BevFusionDetector(config, RUNTIME)


def _detect(
    detector: BevFusionDetector,
    simulation: Simulation,
    index: int,
    frame: SensorFrame,
    painting: ImageResults,
) -> None:
    """Run the detector on a frame with the sweeps before it."""
    detector.clear_past_sweeps()
    if frame.lidars:
        for k in range(min(detector.network_config.past_sweeps, index), 0, -1):
            past = simulation.sweeps(index - k)
            detector.add_past_sweep(past, visible_cloud(past))
    detector.detect(frame, visible_cloud(frame), None, painting)


def _simulated_masks(
    frame: SensorFrame, truth: FrameTruth, config: PaintingConfig, rng: np.random.Generator
) -> ImageResults:
    """Masks of simulated 2D networks for the images of a frame, with the classes PAINT_GROUPS."""
    labels = truth.boxes
    assert labels.track_ids is not None
    number_of_track = {int(t): k + 1 for k, t in enumerate(labels.track_ids)}
    cells = {}
    pixels = np.zeros(len(labels))
    for name, view in truth.views.items():
        if name not in frame.intrinsics:
            continue
        semantics = SEGMENT_OF_SEMANTIC[view.semantics[::FEATURE_STRIDE, ::FEATURE_STRIDE]]
        ids, inverse = np.unique(
            view.instances[::FEATURE_STRIDE, ::FEATURE_STRIDE], return_inverse=True
        )
        numbers = np.array([number_of_track.get(int(t), 0) for t in ids], np.uint16)
        objects = numbers[inverse].reshape(semantics.shape)
        counts = np.bincount(objects.ravel(), minlength=len(labels) + 1)[1:]
        pixels = np.maximum(pixels, counts * FEATURE_STRIDE**2)
        cells[name] = semantics, objects
    rows = object_scores(labels.labels, pixels, config, rng)
    masks: dict[str, SegmentationMask] = {}
    if rng.random() < config.missing_frames:
        return ImageResults()
    for name, (semantics, objects) in cells.items():
        if rng.random() < config.missing_images:
            continue
        scores = image_scores(semantics, objects, rows, config, rng)
        model = frame.intrinsics[name]
        masks[name] = SegmentationMask(
            name,
            frame.stamp_ns,
            np.zeros((model.height, model.width), np.uint8),  # only the logits are used
            PAINT_GROUPS,
            np.log(np.maximum(scores, MIN_MASK_SCORE)).astype(np.float32),
        )
    return ImageResults(segmentations=masks)


def _added_boxes(boxes: Boxes3D, scene: Scene, count: int, rng: np.random.Generator) -> Boxes3D:
    """Boxes with the sizes of detections: half moved away from them, half at random LiDAR returns."""
    sizes = boxes if len(boxes) else _typical_box(scene.frame)
    rows = rng.integers(len(sizes), size=count)
    added = sizes.select(rows)
    values = added.boxes.copy()
    angle, distance = rng.uniform(-np.pi, np.pi, count), rng.uniform(*SHIFT_M, count)
    values[:, 0] += distance * np.cos(angle)
    values[:, 1] += distance * np.sin(angle)
    cloud = scene.cloud
    returns = np.flatnonzero(~cloud.is_ground & (cloud.height > MIN_RETURN_HEIGHT))
    if len(returns):
        centres = np.arange(0, count, 2)
        chosen = cloud.points[returns[rng.integers(len(returns), size=len(centres))]]
        values[centres, :2] = chosen[:, :2]
    values[:, 2] = cloud.ground.at(values[:, 0], values[:, 1]) + values[:, 5] / 2
    values[:, 6] = rng.uniform(-np.pi, np.pi, count)
    return Boxes3D(
        boxes.stamp_ns,
        boxes.frame_id,
        values.astype(np.float32),
        np.full(count, np.nan, np.float32),
        added.labels,
        added.class_names,
    )


def _typical_box(frame: SensorFrame) -> Boxes3D:
    """A car ahead, for the sizes of added boxes in a frame without detections."""
    box = np.array([[12.0, 0.0, 0.8, 4.3, 1.8, 1.6, 0.0]], np.float32)
    return Boxes3D(
        frame.stamp_ns, frame.base_frame, box, np.ones(1, np.float32), np.ones(1, np.int64)
    )


def _rows(
    boxes: Boxes3D, features: OpinionFeatures, faulty: FaultyFrame, labels: Boxes3D
) -> Arrays:
    """Arrays of a frame. Boxes for which _true_groups is -1 are left out."""
    truth = _true_groups(boxes, labels)
    known = np.flatnonzero(truth >= 0)
    names = np.array([*features.names, ""])  # the last one is that of the index -1
    # The LiDARs and the ultrasonic sensors are one source each.
    modalities = {
        "lidar": faulty.sensors & faulty.frame.lidars.keys(),
        "ultrasonic": faulty.sensors & faulty.frame.ultrasonics.keys(),
    }
    wrong = faulty.sensors | {name for name, sensors in modalities.items() if sensors}
    arrays: Arrays = {
        modality: np.clip(values, -6e4, 6e4).astype(np.float16)
        for modality, values in features.values.items()
    }
    arrays |= {
        "valid": features.sources >= 0,
        "faulty": np.isin(names[features.sources], list(wrong)),
        "truth": truth,
        "groups": class_groups(boxes.class_names)[boxes.labels],
        "scores": boxes.scores,
    }
    assert arrays["valid"].shape[1] == len(SLOTS)
    return {name: values[known] for name, values in arrays.items()}


def _true_groups(boxes: Boxes3D, labels: Boxes3D) -> NDArray[np.int64]:
    """Index (N,) into GROUPS of the nearest label of each box.

    NOTHING for boxes far from all labels, -1 for boxes in between and for labels without a group.
    """
    if not len(labels):
        return np.full(len(boxes), NOTHING)
    offset = boxes.boxes[:, None, :2] - labels.boxes[None, :, :2]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    # The centre of a long vehicle is far from its ends.
    reach = np.maximum(labels.boxes[:, 3] / 2, MATCH_DISTANCE)
    nearest = distance.argmin(axis=1)
    group = class_groups(labels.class_names)[labels.labels][nearest]
    result = np.where(distance.min(axis=1) <= MATCH_DISTANCE, group, -1)
    free = (distance > FREE_DISTANCE + reach[None] - MATCH_DISTANCE).all(axis=1)
    return np.where(free, NOTHING, result)
