"""Comparison of the fusion detector's outputs between inference engines, and with stored outputs.

All differences are relative to the magnitude of the value, but at least to SCORE_FLOOR for scores and to
1 m or 1 rad for box parameters, so that values near zero do not require infinite precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector, Network
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.frame import Boxes3D, SensorFrame, ThermalImage
from multimodal_perception.npz_reader import CONTENT_ERRORS, read_npz
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import TensorSpec, load_card
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.settings import EngineName, RuntimeConfig

TOLERANCE = 1e-3
SCORE_FLOOR = 0.01
# Proposals with lower scores are not compared, because rounding determines which of them are selected.
MIN_PROPOSAL_SCORE = 0.05
# Stored ("golden") outputs contain the boxes of GOLDEN_FRAMES frames with at least GOLDEN_MIN_SCORE.
# A comparison requires a match for each box with at least GOLDEN_REQUIRED_SCORE.
GOLDEN_FRAMES, GOLDEN_MIN_SCORE, GOLDEN_REQUIRED_SCORE = 3, 0.1, 0.2
# Boxes whose centres differ by more do not match, metres.
MAX_CENTRE_DIFFERENCE_M = 0.1


@dataclass
class Agreement:
    """The result of a comparison of two sets of outputs.

    max_differences: largest relative difference by output. unmatched: boxes that only one of the two
    sets contains. compared: number of compared boxes.
    """

    max_differences: dict[str, float] = field(default_factory=dict)
    unmatched: int = 0
    compared: int = 0

    def record(self, name: str, difference: float) -> None:
        self.max_differences[name] = max(self.max_differences.get(name, 0.0), difference)

    @property
    def within_tolerance(self) -> bool:
        """True if every box has a match within TOLERANCE; False if nothing was compared."""
        if not self.compared or self.unmatched:
            return False
        return max(self.max_differences.values()) <= TOLERANCE


class ComparedNetwork:
    """A network that runs on two engines, compares their outputs and returns those of the first."""

    def __init__(self, engine: Network, other: Network, agreement: Agreement) -> None:
        self._engine, self._other, self.agreement = engine, other, agreement

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._engine.inputs

    @property
    def device(self) -> str:
        return self._engine.device

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of the first engine."""
        outputs, others = self._engine.run(arrays), self._other.run(arrays)
        if "labels" in outputs:
            first, second = (
                tuple(result[k][0] for k in ("boxes", "scores", "labels"))
                for result in (outputs, others)
            )
            compare_detections(first, second, MIN_PROPOSAL_SCORE, self.agreement)
        elif "features" in outputs:
            self._compare_values(outputs, others)
        else:
            self.agreement.compared += outputs["refined_boxes"].shape[1]
            self._compare_values(outputs, others)
        return outputs

    def _compare_values(self, outputs: Arrays, others: Arrays) -> None:
        """Compare all outputs element by element."""
        for name, values in outputs.items():
            floor = SCORE_FLOOR if name == "confidences" else 1.0
            difference = max_relative_difference(values, others[name], floor)
            self.agreement.record(name, difference)


def compare_detections(
    first: tuple[NDArray, ...], second: tuple[NDArray, ...], min_score: float, agreement: Agreement
) -> None:
    """Compare each box of at least `min_score` with the nearest box of its class in the other set.

    first, second: boxes (N, 7), scores (N,) and labels (N,). Both sets are compared with the other
    one. The score of the nearest box may be lower than `min_score`.
    """
    for queries, candidates in ((first, second), (second, first)):
        boxes, scores, labels = candidates
        for box, score, label in zip(*queries, strict=True):
            if score < min_score:
                continue
            agreement.compared += 1
            same_class = np.flatnonzero(labels == label)
            distances = np.abs(boxes[same_class, :3] - box[:3]).max(axis=1, initial=0.0)
            if not len(same_class) or distances.min() > MAX_CENTRE_DIFFERENCE_M:
                agreement.unmatched += 1
                continue
            k = same_class[distances.argmin()]
            difference = max_relative_difference(np.array(score), np.array(scores[k]), SCORE_FLOOR)
            agreement.record("scores", difference)
            agreement.record("boxes", max_relative_difference(box, boxes[k], 1.0))


def max_relative_difference(values: NDArray, reference: NDArray, floor: float) -> float:
    """The largest difference relative to the magnitude of the reference, but at least `floor`.

    The last axis may be box parameters (7,): then yaw differences are taken modulo 2 pi.
    """
    difference = np.abs(np.asarray(values, np.float64) - reference)
    if difference.shape[-1:] == (7,):
        difference[..., 6] = np.minimum(difference[..., 6], np.abs(2 * np.pi - difference[..., 6]))
    return float((difference / np.maximum(np.abs(reference), floor)).max(initial=0.0))


def compare_engines(
    model: str, engines: tuple[EngineName, EngineName], frames: Iterable[SensorFrame]
) -> Agreement:
    """Run the detector on frames with both engines. Raises UserError if an engine fails."""
    first, second = (_open_detector(model, name) for name in engines)
    agreement = Agreement()
    for name, network in first.image_networks.items():
        first.image_networks[name] = ComparedNetwork(
            network, second.image_networks[name], agreement
        )
    first.proposal_network = ComparedNetwork(
        first.proposal_network, second.proposal_network, agreement
    )
    if first.refinement_network is not None and second.refinement_network is not None:
        first.refinement_network = ComparedNetwork(
            first.refinement_network, second.refinement_network, agreement
        )
    for frame in frames:
        first.detect(frame, segment_ground(frame))
    if first.failures:
        raise UserError(f"{model}: inference failed on {first.failures} frames or images")
    return agreement


def golden_frames() -> list[SensorFrame]:
    """Frames of the synthetic street, with the camera's brightness as an additional thermal image."""
    frames = []
    for frame in SyntheticDataset(GOLDEN_FRAMES):
        ((name, camera),) = frame.cameras.items()
        counts = camera.rgb().mean(axis=2).astype(np.uint16) * 16 + 20000
        thermal = ThermalImage("thermal", camera.stamp_ns, camera.frame_id, counts)
        poses, models = dict(frame.base_from_sensor), dict(frame.intrinsics)
        poses["thermal"], models["thermal"] = poses[name], models[name]
        frames.append(
            replace(frame, thermals={"thermal": thermal}, base_from_sensor=poses, intrinsics=models)
        )
    return frames


def write_golden(model: str, path: Path) -> int:
    """Store the detections of ONNX Runtime in golden_frames. Returns the number of boxes."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder")
    arrays = {"onnx": np.array(_onnx_hashes(model))}
    count = 0
    for k, boxes in enumerate(_detect_golden_frames(model, "onnxruntime")):
        arrays |= {
            f"{k}.boxes": boxes.boxes,
            f"{k}.scores": boxes.scores,
            f"{k}.labels": boxes.labels,
        }
        count += len(boxes)
    try:
        np.savez_compressed(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return count


def compare_with_golden(
    model: str, engine: EngineName, path: Path, device: Literal["cpu", "cuda"] = "cpu"
) -> Agreement:
    """Compare the detections of an engine in golden_frames with the stored ones.

    Raises UserError if the file is invalid or was written with other ONNX files.
    """
    agreement = Agreement()
    try:
        golden = read_npz(path)
        if str(golden["onnx"]) != _onnx_hashes(model):
            raise UserError(
                f"{path}: written with other ONNX files than those of {model}; if they were changed "
                "on purpose, run: "
                f"multimodal-perception evaluate agreement --detector {model} --golden {path}"
            )
        for k, boxes in enumerate(_detect_golden_frames(model, engine, device)):
            stored = tuple(golden[f"{k}.{n}"] for n in ("boxes", "scores", "labels"))
            detections = boxes.boxes, boxes.scores, boxes.labels
            compare_detections(detections, stored, GOLDEN_REQUIRED_SCORE, agreement)
    except CONTENT_ERRORS as error:
        raise UserError(f"{path}: not a file of golden outputs ({error})") from error
    return agreement


def _detect_golden_frames(
    model: str, engine: EngineName, device: Literal["cpu", "cuda"] = "cpu"
) -> list[Boxes3D]:
    detector = _open_detector(model, engine, device)
    boxes = [detector.detect(frame, segment_ground(frame)) for frame in golden_frames()]
    if detector.failures:
        raise UserError(f"{model}: inference with {engine} failed")
    return boxes


def _open_detector(
    model: str, engine: EngineName, device: Literal["cpu", "cuda"] = "cpu"
) -> BevFusionDetector:
    config = RuntimeConfig(order=(engine,), device=device)
    # Without the geometric check, because only the outputs of the networks are compared.
    fusion = FusionConfig(model, min_score=GOLDEN_MIN_SCORE, geometric_check=False)
    return BevFusionDetector(fusion, config)


def _onnx_hashes(model: str) -> str:
    """SHA-256 of the ONNX files of all networks of a detector."""
    card = load_card(model)
    others = [*card.linked_models("images").values(), str(card.settings.get("refinement", ""))]
    cards = [card, *(card.sibling_card(name) for name in others if name)]
    return " ".join(c.onnx.sha256 for c in cards if c.onnx is not None)
