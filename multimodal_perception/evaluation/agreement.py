"""Whether two engines say the same of the fusion detector's networks, and whether it says what it did.

Relative to what is said: a score to itself, at least SCORE_FLOOR; a box's numbers to themselves, at
least a metre or a radian, so that a place at zero does not ask for infinite precision.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector, Network
from multimodal_perception.frame import Boxes3D, SensorFrame, ThermalImage
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.runtime.card import TensorSpec, load_card
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.settings import EngineName, RuntimeConfig

TOLERANCE = 1e-3
SCORE_FLOOR = 0.01
# Proposals below are not compared: which of them are among the best is a matter of rounding.
LEAST_SCORE = 0.05
# Golden outputs: of so many frames, boxes from this score on; those from SURE on must be there again.
GOLDEN_FRAMES, GOLDEN_SCORE, SURE = 3, 0.1, 0.2


@dataclass
class Agreement:
    """The largest relative differences so far, by output. alone: proposals that only one side has."""

    apart: dict[str, float] = field(default_factory=dict)
    alone: int = 0
    compared: int = 0

    def note(self, name: str, value: float) -> None:
        self.apart[name] = max(self.apart.get(name, 0.0), value)

    @property
    def holds(self) -> bool:
        """Whether everything is within TOLERANCE; not when nothing was compared."""
        return bool(self.compared) and not self.alone and max(self.apart.values()) <= TOLERANCE


class BothEngines:
    """One network run by one engine; another is given the same arrays and what it says compared."""

    def __init__(self, engine: Network, other: Network, agreement: Agreement) -> None:
        self._engine, self._other, self.agreement = engine, other, agreement

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._engine.inputs

    @property
    def device(self) -> str:
        return self._engine.device

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """What the first engine says."""
        said, other = self._engine.run(arrays), self._other.run(arrays)
        if "labels" in said:
            found = [tuple(r[k][0] for k in ("boxes", "scores", "labels")) for r in (said, other)]
            compare_found(found[0], found[1], LEAST_SCORE, self.agreement)
        elif "features" in said:
            self.agreement.note("features", relative(said["features"], other["features"], 1.0))
        else:
            self.agreement.compared += said["refined"].shape[1]
            for name, floor in (("confidences", SCORE_FLOOR), ("refined", 1.0)):
                self.agreement.note(name, relative(said[name], other[name], floor))
        return said


def compare_found(
    found: tuple[NDArray, ...], other: tuple[NDArray, ...], least: float, agreement: Agreement
) -> None:
    """Note how far boxes (N, 7), scores (N,) and labels (N,) of score `least` on are from the nearest
    of their class on the other side, whose scores may lie just below."""
    for ours, theirs in ((found, other), (other, found)):
        boxes, scores, labels = theirs
        for box, score, label in zip(*ours, strict=True):
            if score < least:
                continue
            agreement.compared += 1
            same = np.flatnonzero(labels == label)
            away = np.abs(boxes[same, :3] - box[:3]).max(axis=1, initial=0.0)
            if not len(same) or away.min() > 0.1:
                agreement.alone += 1
                continue
            k = same[away.argmin()]
            agreement.note("scores", relative(np.array(score), np.array(scores[k]), SCORE_FLOOR))
            agreement.note("boxes", relative(box, boxes[k], 1.0))


def relative(said: NDArray, other: NDArray, floor: float) -> float:
    """The largest difference, relative to the other's size or `floor`. Of yaws that differ by a whole
    turn only what is left."""
    off = np.abs(np.asarray(said, np.float64) - other)
    if off.shape[-1:] == (7,):
        off[..., 6] = np.minimum(off[..., 6], np.abs(2 * np.pi - off[..., 6]))
    return float((off / np.maximum(np.abs(other), floor)).max(initial=0.0))


def compare_engines(
    model: str, engines: tuple[EngineName, EngineName], frames: Iterable[SensorFrame]
) -> Agreement:
    """Run the detector on frames by both engines. Raises UserError where one of them does not work."""
    first, second = (_detector(model, name) for name in engines)
    agreement = Agreement()
    for kind, network in first.images.items():
        first.images[kind] = BothEngines(network, second.images[kind], agreement)
    if first.blind is not None and second.blind is not None:
        first.blind = BothEngines(first.blind, second.blind, agreement)
    first.proposals = BothEngines(first.proposals, second.proposals, agreement)
    if first.refinement is not None and second.refinement is not None:
        first.refinement = BothEngines(first.refinement, second.refinement, agreement)
    for frame in frames:
        first.detect(frame, ground_cloud(frame))
    if first.failures:
        raise UserError(f"{model}: {first.failures} frames or images could not be run")
    return agreement


def golden_frames() -> list[SensorFrame]:
    """Frames of the synthetic street, their camera's brightness given as a thermal image as well."""
    frames = []
    for frame in SyntheticStreet(GOLDEN_FRAMES):
        ((name, camera),) = frame.cameras.items()
        warm = camera.rgb().mean(axis=2).astype(np.uint16) * 16 + 20000
        thermal = ThermalImage("thermal", camera.stamp_ns, camera.frame_id, warm)
        poses, models = dict(frame.base_from_sensor), dict(frame.intrinsics)
        poses["thermal"], models["thermal"] = poses[name], models[name]
        frames.append(
            replace(frame, thermals={"thermal": thermal}, base_from_sensor=poses, intrinsics=models)
        )
    return frames


def write_golden(model: str, path: Path) -> int:
    """Write what ONNX Runtime finds in golden_frames. Returns how many boxes."""
    if not path.parent.is_dir():
        raise UserError(f"{path}: no such folder")
    arrays = {"onnx": np.array(_hash(model))}
    count = 0
    for k, told in enumerate(_told(model, "onnxruntime")):
        arrays |= {f"{k}.boxes": told.boxes, f"{k}.scores": told.scores, f"{k}.labels": told.labels}
        count += len(told)
    try:
        np.savez_compressed(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return count


def compare_with_golden(model: str, engine: EngineName, path: Path) -> Agreement:
    """What an engine finds in golden_frames against what is stored. Raises UserError for a file that
    is not of this model's ONNX."""
    agreement = Agreement()
    try:
        with np.load(path, allow_pickle=False) as content:
            golden = {name: content[name] for name in content.files}
        if str(golden["onnx"]) != _hash(model):
            raise UserError(
                f"{path}: of another ONNX than {model}'s; if the change is meant: "
                f"multimodal-perception evaluate agreement --detector {model} --golden {path}"
            )
        for k, told in enumerate(_told(model, engine)):
            stored = tuple(golden[f"{k}.{n}"] for n in ("boxes", "scores", "labels"))
            found = told.boxes, told.scores, told.labels
            compare_found(found, stored, SURE, agreement)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not golden outputs ({error})") from error
    return agreement


def _told(model: str, engine: EngineName) -> list[Boxes3D]:
    detector = _detector(model, engine)
    told = [detector.detect(frame, ground_cloud(frame)) for frame in golden_frames()]
    if detector.failures:
        raise UserError(f"{model}: {engine} could not run a frame")
    return told


def _detector(model: str, engine: EngineName) -> FusionDetector:
    config = RuntimeConfig(order=(engine,), device="cpu")
    return FusionDetector(FusionConfig(model, min_score=GOLDEN_SCORE), config)


def _hash(model: str) -> str:
    """Of all networks' ONNX."""
    card = load_card(model)
    others = [str(card.settings.get(part, "")) for part in ("blind", "refinement")]
    others = [*card.named("images").values(), *others]
    cards = [card, *(card.beside(name) for name in others if name)]
    return " ".join(c.onnx.sha256 for c in cards if c.onnx is not None)
