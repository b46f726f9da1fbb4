"""Training and scoring of the learned near field on recorded shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import CameraImage, Modality, SensorFrame, UltrasonicReading
from multimodal_perception.near_field.network_inputs import NearFieldInputs
from multimodal_perception.networks.efficientnet_lite import load_imagenet
from multimodal_perception.networks.near_field import (
    NearField,
    NearFieldSettings,
    evidential_loss,
)
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.sensors.ultrasonic import DEFAULT_LIMITS
from multimodal_perception.training.loop import Loop, LoopConfig
from multimodal_perception.training.near_field.dataset import CLASSES, RESOLUTION

STEP_NS = 100_000_000
# How often training goes without all ultrasonics, without all cameras, and without each camera.
NO_SOUND, NO_EYES, NO_CAMERA = 0.15, 0.15, 0.1
# Factors on the evidence that calibration tries, and the calibration error that it is content with: more
# evidence would leave less unknown where nothing like it was learnt.
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
CONTENT = 0.04
# How near to the vehicle hard things are scored, and how far around them free cells count.
NEAR_M, AROUND_M = 5.0, 1.0


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. kl: largest weight of the divergence from knowing nothing. occupied, hard: weight of
    cells that hold something, and something low, thin or clear. fisheye_only: the ultrasonics are never
    heard, for comparison.
    """

    epochs: int = field(default=12, metadata={"min": 1, "max": 1000})
    batch: int = field(default=8, metadata={"min": 1, "max": 256})
    rate: float = field(default=2e-3, metadata={"min": 1e-6, "max": 1.0})
    kl: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})
    occupied: float = field(default=1.5, metadata={"min": 0.1, "max": 100.0})
    hard: float = field(default=4.0, metadata={"min": 0.1, "max": 100.0})
    seed: int = 0
    fisheye_only: bool = False

    def loop(self, samples: int) -> LoopConfig:
        """Steps and rates for so many samples."""
        return LoopConfig(
            steps=self.epochs * max(samples // self.batch, 1),
            batch=self.batch,
            learning_rate=self.rate,
            clip=5.0,
            average=0.99,
            workers=0,
            save_every=max(samples // self.batch, 1),
            seed=self.seed,
        )


@dataclass
class Samples:
    """Frames ready to train on: features of the images (as ImageNet made them), echoes, labels.

    fine: (N, 4, 24, 28, 48) and coarse: (N, 4, 40, 14, 24) float16. lookup: (4, 2, 72, 72, 2).
    sound: (N, 5, 72, 72) float16. labels: (N, 72, 72) uint8. hard: (N, 72, 72) bool. night: (N,) bool.
    scenario: (N,).
    """

    fine: Tensor
    coarse: Tensor
    lookup: Tensor
    sound: Tensor
    labels: Tensor
    hard: Tensor
    night: NDArray[np.bool_]
    scenario: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def load_samples(shards: Sequence[Path], rig: Rig, network: NearField) -> Iterator[Samples]:
    """The samples of each shard. Raises UserError for a file that is none."""
    for path in shards:
        try:
            with np.load(path, allow_pickle=False) as shard:
                content = {name: shard[name] for name in shard.files}
            frames = list(_frames(content, rig))
            labels, hard = content["labels"], content["hard"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: no near-field shard: {error}") from error
        inputs = NearFieldInputs()
        fine, coarse, sound, lookup = [], [], [], None
        for frame in frames:
            if not frame.cameras:
                inputs.sound(frame)  # to be remembered
                continue
            arrays = inputs.arrays(frame)
            assert arrays is not None
            with torch.inference_mode():
                features = network.features(torch.from_numpy(arrays["images"][0]))
            fine.append(features[0].half())
            coarse.append(features[1].half())
            sound.append(torch.from_numpy(arrays["sound"][0]).half())
            lookup = torch.from_numpy(arrays["lookup"][0])
        assert lookup is not None
        night = np.full(len(labels), bool(content["night"]))
        scenario = [str(content["scenario"])] * len(labels)
        stacked = (torch.stack(fine), torch.stack(coarse), lookup, torch.stack(sound))
        yield Samples(*stacked, torch.from_numpy(labels), torch.from_numpy(hard), night, scenario)


def joined(parts: Sequence[Samples]) -> Samples:
    """All samples as one; their rig is the same. Raises UserError without any."""
    if not parts:
        raise UserError("no near-field shards: record some first")
    whole = {n: torch.cat([getattr(p, n) for p in parts]) for n in ("fine", "coarse", "sound")}
    return Samples(
        whole["fine"],
        whole["coarse"],
        parts[0].lookup,
        whole["sound"],
        torch.cat([p.labels for p in parts]),
        torch.cat([p.hard for p in parts]),
        np.concatenate([p.night for p in parts]),
        [name for p in parts for name in p.scenario],
    )


def new_network(settings: NearFieldSettings | None = None, seed: int = 0) -> NearField:
    """A fresh network; its image features have ImageNet's weights and are not trained."""
    torch.manual_seed(seed)
    network = NearField(settings)
    imagenet = load_imagenet()
    network.features.stem.load_state_dict(imagenet.stem.state_dict())
    network.features.fine.load_state_dict(imagenet.stages[0].state_dict())
    network.features.coarse.load_state_dict(imagenet.stages[1].state_dict())
    network.features.requires_grad_(False)
    return network.eval()


class Augmented(Dataset[dict[str, Tensor]]):
    """Samples, mirrored and with sensors left out at random, the same for (seed, epoch, index)."""

    def __init__(self, samples: Samples, options: TrainingOptions) -> None:
        self.samples, self.options = samples, options
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        s, rng = self.samples, np.random.default_rng((self.options.seed, self.epoch, index))
        places, sounding, draw = s.lookup.clone(), 1.0, rng.random()
        if self.options.fisheye_only or draw < NO_SOUND:
            sounding = 0.0
        elif draw < NO_SOUND + NO_EYES:
            places[:] = -2.0
        lost = torch.from_numpy(rng.random(len(places)) < NO_CAMERA)
        # At least one sensor is left.
        if not (sounding == 0 and bool(lost.all())):
            places[lost] = -2.0
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]  # y and x of the cells
        cells = [axis - 1 for axis in flips]
        return {
            "fine": s.fine[index].float(),
            "coarse": s.coarse[index].float(),
            "lookup": places.flip([1 + axis for axis in flips]),
            "sound": s.sound[index].float().flip(flips),
            "sounding": torch.tensor(sounding),
            "labels": s.labels[index].long().flip(cells),
            "hard": s.hard[index].flip(cells),
        }


def train(network: NearField, samples: Samples, options: TrainingOptions, out: Path) -> NearField:
    """Train, from the checkpoint in `out` if there is one. Returns the network with averaged weights."""
    config = options.loop(len(samples))
    loop = Loop(network, Augmented(samples, options), default_collate, config, out)

    def losses(module: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        kl = options.kl * min(1.0, 2.0 * loop.step / config.steps)
        return _losses(module, batch, options, kl)

    loop.run(losses)
    return network


def _losses(
    network: NearField, batch: dict[str, Tensor], options: TrainingOptions, kl: float
) -> dict[str, Tensor]:
    labels, hard = batch.pop("labels"), batch.pop("hard")
    evidence, first, _ = network.decode(**batch)
    known = torch.where(labels < len(CLASSES), labels, -1)
    weights = torch.where(known > 0, options.occupied, 1.0)
    weights = torch.where((known > 0) & hard, options.hard, weights)
    losses = {"fine": evidential_loss(evidence, labels, weights, kl)}
    losses["total"] = losses["fine"]
    if first is not None:
        # A coarse cell is what the worst of its four is.
        pool = torch.nn.functional.max_pool2d
        coarse = pool(known.float(), 2).long()
        coarse = torch.where(coarse < 0, 255, coarse)
        losses["coarse"] = evidential_loss(first, coarse, pool(weights, 2), kl)
        losses["total"] = losses["fine"] + 0.5 * losses["coarse"]
    return losses


def calibrate(network: NearField, samples: Samples, sound: bool = True) -> float:
    """Set the factor on the evidence to the least of FACTORS that calibrates, else the best; returns it.

    samples: of drives that training has not seen.
    """
    network.settings = replace(network.settings, evidence=1.0)
    found = _evidence(network, samples, sound)
    labels, hard = samples.labels.numpy(), samples.hard.numpy()
    errors = {}
    for factor in FACTORS:
        free, occupied = masses(factor * found).numpy().transpose(1, 0, 2, 3)
        errors[factor] = figures_of(free, occupied, labels, hard)["ece"]
    enough = [factor for factor in FACTORS if errors[factor] <= CONTENT]
    best = min(enough, default=min(errors, key=lambda factor: errors[factor]))
    network.settings = replace(network.settings, evidence=best)
    return best


def score(
    network: NearField, samples: Samples, sound: bool = True, eyes: bool = True
) -> dict[str, dict[str, float]]:
    """IoU of occupied and free, false-free and calibration of cells, by night and day.

    sound, eyes: whether ultrasonics and cameras are there. Keys: all, day, night, each of
    `figures_of`.
    """
    free, occupied = masses(_evidence(network, samples, sound, eyes)).numpy().transpose(1, 0, 2, 3)
    labels, hard = samples.labels.numpy(), samples.hard.numpy()
    groups = {"all": np.ones(len(labels), bool), "night": samples.night, "day": ~samples.night}
    return {
        name: figures_of(free[rows], occupied[rows], labels[rows], hard[rows])
        for name, rows in groups.items()
        if rows.any()
    }


def _evidence(
    network: NearField, samples: Samples, sound: bool = True, eyes: bool = True
) -> Tensor:
    """Evidence (N, K, 72, 72) of all samples, with ultrasonics and cameras there or not."""
    found = []
    for i in range(len(samples)):
        batch = {
            "fine": samples.fine[i : i + 1].float(),
            "coarse": samples.coarse[i : i + 1].float(),
            "lookup": samples.lookup[None] if eyes else torch.full_like(samples.lookup[None], -2.0),
            "sound": samples.sound[i : i + 1].float(),
            "sounding": torch.tensor([1.0 if sound else 0.0]),
        }
        with torch.inference_mode():
            found.append(network.decode(**batch)[0])
    return torch.cat(found)


def masses(evidence: Tensor) -> Tensor:
    """Free and occupied mass (B, 2, H, W): beliefs e / S, all classes but free being occupied."""
    belief = evidence / (evidence.sum(dim=1, keepdim=True) + evidence.shape[1])
    return torch.stack([belief[:, 0], belief[:, 1:].sum(dim=1)], 1)


def figures_of(
    free: NDArray[np.floating],
    occupied: NDArray[np.floating],
    labels: NDArray[np.uint8],
    hard: NDArray[np.bool_],
) -> dict[str, float]:
    """Of cells (N, H, W) with a label: what is rather occupied than free is called so.

    iou_hard, recall_hard: of the cells that hold something low, thin or clear (kerbs, low walls, glass,
    posts) and the free ones within 1 m of them, as far as 5 m from the vehicle. recall_X: of a class.
    """
    known = labels < len(CLASSES)
    truth, call = labels[known] > 0, (occupied > free)[known]
    both, either = (truth & call).sum(), (truth | call).sum()
    clear, lost = (~truth & ~call).sum(), (truth & ~call).sum()
    probability = 0.5 * (1 + occupied - free)[known]
    place = np.clip((probability * 10).astype(int), 0, 9)
    gaps = [abs((probability - truth)[place == b].sum()) for b in range(10)]
    result = {
        "iou_occupied": float(both / max(either, 1)),
        "iou_free": float(clear / max((~truth | ~call).sum(), 1)),
        "false_free": float(lost / max(truth.sum(), 1)),
        "ece": float(sum(gaps) / max(known.sum(), 1)),
        "unknown": float((1 - free - occupied)[known].mean()) if known.any() else math.nan,
    }
    result |= _hard_figures(occupied > free, labels, hard)
    for number, name in enumerate(CLASSES[1:], 1):
        cells = labels == number
        result[f"recall_{name}"] = (
            float((occupied > free)[cells].mean()) if cells.any() else math.nan
        )
    return result


def _hard_figures(
    called: NDArray[np.bool_], labels: NDArray[np.uint8], hard: NDArray[np.bool_]
) -> dict[str, float]:
    near = near_cells(labels.shape[1:])
    there = hard & (labels > 0) & (labels < len(CLASSES)) & near
    reach = round(AROUND_M / RESOLUTION)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    around = np.stack([cv2.dilate(one.astype(np.uint8), kernel) > 0 for one in there])
    beside = around & (labels == 0) & near
    hits, cells = int((there & called).sum()), int(there.sum())
    return {
        "iou_hard": hits / (cells + int((beside & called).sum())) if cells else math.nan,
        "recall_hard": hits / cells if cells else math.nan,
    }


def near_cells(
    shape: tuple[int, ...], footprint: tuple[float, float] = (4.5, 1.8)
) -> NDArray[np.bool_]:
    """Cells (rows, columns) whose middle is within 5 m of the footprint (length, width) around 0."""
    y, x = ((np.arange(n) + 0.5 - n / 2) * RESOLUTION for n in shape)
    off_x = np.maximum(np.abs(x) - footprint[0] / 2, 0.0)
    off_y = np.maximum(np.abs(y) - footprint[1] / 2, 0.0)
    return np.hypot(off_x[None], off_y[:, None]) <= NEAR_M


def _frames(content: dict[str, NDArray], rig: Rig) -> Iterator[SensorFrame]:
    """A shard's moments as frames; those without images hold ultrasonics alone."""
    sounders = list(rig.of(Modality.ULTRASONIC).values())
    cameras = list(rig.of(Modality.CAMERA).values())
    at = {int(step): k for k, step in enumerate(content["frames"])}
    poses = {s.name: p for s in (*sounders, *cameras) if (p := s.base_from_sensor()) is not None}
    models = {c.name: c.intrinsics.camera_model() for c in cameras if c.intrinsics is not None}
    for step, (ranges, pose) in enumerate(
        zip(content["ranges"], content["odom_from_base"], strict=True)
    ):
        stamp = step * STEP_NS
        readings = {}
        for sensor, away in zip(sounders, ranges, strict=True):
            limits = sensor.limits or DEFAULT_LIMITS
            readings[sensor.name] = UltrasonicReading(
                sensor.name,
                stamp,
                sensor.frame_id,
                float(away),
                limits.min_range,
                limits.max_range,
                limits.field_of_view,
            )
        images = {}
        if step in at:
            for camera, pixels in zip(cameras, content["images"][at[step]], strict=True):
                images[camera.name] = CameraImage(camera.name, stamp, camera.frame_id, pixels)
        yield SensorFrame(
            stamp,
            rig.base_frame,
            cameras=images,
            ultrasonics=readings,
            base_from_sensor=poses,
            intrinsics=models,
            odom_from_base=pose,
        )
