"""Training and scoring of the learned near field on recorded shards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import CameraImage, Modality, SensorFrame, UltrasonicReading
from multimodal_perception.networks.efficientnet_lite import load_imagenet
from multimodal_perception.networks.near_field import (
    NearField,
    NearFieldSettings,
    evidential_loss,
)
from multimodal_perception.preprocess.near_field import NearFieldInputs
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.ultrasonic import DEFAULT_LIMITS
from multimodal_perception.training.near_field_data import CLASSES

STEP_NS = 100_000_000
# How often training goes without all ultrasonics, without all cameras, and without each camera.
NO_SOUND, NO_EYES, NO_CAMERA = 0.15, 0.15, 0.1


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. kl: largest weight of the divergence from knowing nothing. occupied: weight of the
    classes but free. fisheye_only: the ultrasonics are never heard, for comparison.
    """

    epochs: int = field(default=12, metadata={"min": 1, "max": 1000})
    batch: int = field(default=8, metadata={"min": 1, "max": 256})
    rate: float = field(default=2e-3, metadata={"min": 1e-6, "max": 1.0})
    decay: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})
    kl: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0})
    occupied: float = field(default=2.0, metadata={"min": 0.1, "max": 100.0})
    seed: int = 0
    fisheye_only: bool = False


@dataclass
class Samples:
    """Frames ready to train on: features of the images (as ImageNet made them), echoes, labels.

    fine: (N, 4, 24, 28, 48) and coarse: (N, 4, 40, 14, 24) float16. lookup: (4, 2, 72, 72, 2).
    sound: (N, 5, 72, 72) float16. labels: (N, 72, 72) uint8. night: (N,) bool. scenario: (N,).
    """

    fine: Tensor
    coarse: Tensor
    lookup: Tensor
    sound: Tensor
    labels: Tensor
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
            labels = content["labels"]
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
        yield Samples(*stacked, torch.from_numpy(labels), night, scenario)


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


def train(
    network: NearField, samples: Samples, options: TrainingOptions, checkpoint: Path | None = None
) -> Iterator[tuple[int, int, float]]:
    """Train in place; yields (epoch, step of all, loss). checkpoint: to resume from, written each epoch.

    The same seed gives the same batches whether or not training was interrupted.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.rate, weight_decay=options.decay)
    per_epoch = math.ceil(len(samples) / options.batch)
    total = per_epoch * options.epochs
    first = _resume(checkpoint, network, optimiser) if checkpoint is not None else 0
    weights = torch.full((len(CLASSES),), options.occupied)
    weights[0] = 1.0
    for epoch in range(first, options.epochs):
        rng = np.random.default_rng((options.seed, epoch))
        network.train()
        network.features.eval()
        order = rng.permutation(len(samples))
        for k in range(per_epoch):
            step = epoch * per_epoch + k
            optimiser.param_groups[0]["lr"] = options.rate * _warmed(step / total)
            batch = _batch(samples, order[k::per_epoch], rng, options.fisheye_only)
            kl = options.kl * min(1.0, 2.0 * step / total)
            loss = _loss(network, batch, weights, kl)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 5.0)
            optimiser.step()
            yield epoch, step, float(loss.detach())
        network.eval()
        if checkpoint is not None:
            _save(checkpoint, network, optimiser, epoch + 1)


def _loss(network: NearField, batch: dict[str, Tensor], weights: Tensor, kl: float) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        evidence, first, _ = network.decode(
            batch["fine"], batch["coarse"], batch["lookup"], batch["sound"], batch["sounding"]
        )
    labels = batch["labels"]
    loss = evidential_loss(evidence, labels, weights, kl)
    if first is not None:
        # A coarse cell is what the worst of its four is.
        known = torch.where(labels < len(CLASSES), labels, -1)
        coarse = torch.nn.functional.max_pool2d(known.float(), 2).long()
        coarse = torch.where(coarse < 0, 255, coarse)
        loss = loss + 0.5 * evidential_loss(first, coarse, weights, kl)
    return loss


def _batch(
    samples: Samples, index: NDArray[np.int64], rng: np.random.Generator, fisheye_only: bool
) -> dict[str, Tensor]:
    """Some samples, mirrored at random, with sensors left out at random."""
    lookup, sound, labels = [], [], []
    sounding = torch.ones(len(index))
    for row, i in enumerate(index):
        places = samples.lookup.clone()
        draw = rng.random()
        if fisheye_only or draw < NO_SOUND:
            sounding[row] = 0.0
        elif draw < NO_SOUND + NO_EYES:
            places[:] = -2.0
        lost = torch.from_numpy(rng.random(len(places)) < NO_CAMERA)
        # At least one sensor is left.
        if not (sounding[row] == 0 and bool(lost.all())):
            places[lost] = -2.0
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]  # y and x of the cells
        lookup.append(places.flip([1 + axis for axis in flips]))
        sound.append(samples.sound[i].float().flip(flips))
        labels.append(samples.labels[i].long().flip([axis - 1 for axis in flips]))
    chosen = torch.from_numpy(index)
    return {
        "fine": samples.fine[chosen].float(),
        "coarse": samples.coarse[chosen].float(),
        "lookup": torch.stack(lookup),
        "sound": torch.stack(sound),
        "sounding": sounding,
        "labels": torch.stack(labels),
    }


def _warmed(progress: float) -> float:
    """Share of the learning rate: up over the first tenth, then down as a cosine."""
    if progress < 0.1:
        return 0.05 + 9.5 * progress
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def _save(path: Path, network: NearField, optimiser: torch.optim.Optimizer, epochs: int) -> None:
    state = {f"network.{n}": t.contiguous() for n, t in network.state_dict().items()}
    for number, values in optimiser.state_dict()["state"].items():
        for name, value in values.items():
            state[f"optimiser.{number}.{name}"] = value
    state["epochs"] = torch.tensor(epochs)
    partial = path.with_suffix(".partial")
    save_file(state, partial)
    partial.rename(path)


def _resume(path: Path, network: NearField, optimiser: torch.optim.Optimizer) -> int:
    """Epochs that a checkpoint holds, its state taken over; 0 where there is none."""
    if not path.exists():
        return 0
    try:
        state = load_file(path)
        network.load_state_dict(
            {n.removeprefix("network."): t for n, t in state.items() if n.startswith("network.")}
        )
    except Exception as error:  # safetensors raises its own kinds
        raise UserError(f"{path}: not a checkpoint of this network: {error}") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimiser."):
            _, number, what = name.split(".", 2)
            moments.setdefault(int(number), {})[what] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    return int(state["epochs"])


def score(network: NearField, samples: Samples, sound: bool = True, eyes: bool = True) -> dict:
    """IoU of occupied and free, false-free and calibration of cells, by night and day.

    sound, eyes: whether ultrasonics and cameras are there. Keys: all, day, night, each of
    `figures_of`, and recall by class.
    """
    called = []
    for i in range(len(samples)):
        batch = {
            "fine": samples.fine[i : i + 1].float(),
            "coarse": samples.coarse[i : i + 1].float(),
            "lookup": samples.lookup[None] if eyes else torch.full_like(samples.lookup[None], -2.0),
            "sound": samples.sound[i : i + 1].float(),
            "sounding": torch.tensor([1.0 if sound else 0.0]),
        }
        with torch.inference_mode():
            called.append(masses(network.decode(**batch)[0])[0].numpy())
    free, occupied = np.stack([c[0] for c in called]), np.stack([c[1] for c in called])
    labels = samples.labels.numpy()
    groups = {"all": np.ones(len(labels), bool), "night": samples.night, "day": ~samples.night}
    return {
        name: figures_of(free[rows], occupied[rows], labels[rows])
        for name, rows in groups.items()
        if rows.any()
    }


def masses(evidence: Tensor) -> Tensor:
    """Free and occupied mass (B, 2, H, W): beliefs e / S, all classes but free being occupied."""
    belief = evidence / (evidence.sum(dim=1, keepdim=True) + evidence.shape[1])
    return torch.stack([belief[:, 0], belief[:, 1:].sum(dim=1)], 1)


def figures_of(
    free: NDArray[np.floating], occupied: NDArray[np.floating], labels: NDArray[np.uint8]
) -> dict[str, float]:
    """Of cells (N, H, W) with a label: what is rather occupied than free is called so."""
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
    for number, name in enumerate(CLASSES[1:], 1):
        cells = labels == number
        result[f"recall_{name}"] = (
            float((occupied > free)[cells].mean()) if cells.any() else math.nan
        )
    return result


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
