"""Training of the near-field network on simulated drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from multimodal_perception.networks.efficientnet_lite import load_imagenet
from multimodal_perception.networks.near_field import (
    NearField,
    NearFieldSettings,
)
from multimodal_perception.rig import Rig
from multimodal_perception.training.checkpoint import load_weights, save_weights
from multimodal_perception.training.distributed import join_process_group
from multimodal_perception.training.evidential_loss import annealed, evidential_loss
from multimodal_perception.training.loop import Loop, LoopConfig, Losses
from multimodal_perception.training.near_field.dataset import CLASSES
from multimodal_perception.training.near_field.samples import (
    Samples,
    concatenate_samples,
    load_samples,
)
from multimodal_perception.training.near_field.scoring import calibrate_evidence

# One of this number of drives is left out of the training and used to calibrate the evidence.
CALIBRATION_INTERVAL = 11
# Fraction of the samples without ultrasonic sensors and without cameras, and of the cameras that are
# missing one by one.
ULTRASONIC_DROPOUT, ALL_CAMERAS_DROPOUT, CAMERA_DROPOUT = 0.15, 0.15, 0.1


@dataclass(frozen=True)
class NearFieldTraining:
    """Training of the near-field network.

    Attributes:
        kl_weight: Final weight of the Kullback-Leibler divergence from a uniform distribution, which
            removes evidence for wrong classes (Sensoy et al. 2018); it rises in the first half of the
            training. Increase it when wrong cells have high evidence.
        occupied_weight: Weight of occupied cells in the loss, relative to free ones. Increase it when
            obstacles are missed.
        hard_weight: Weight of cells with low, thin or transparent obstacles (kerbs, posts, glass).
            Increase it when these are missed.
        content_aware: Choose the dilation of the convolutions cell by cell; otherwise it is 1. Disable
            it to measure what content-aware dilation contributes.
        two_stage: Predict a coarse grid first and refine it. Disable it to measure what the second
            stage contributes.
        fisheye_only: Train without ultrasonic sensors. Enable it to measure what the ultrasonic sensors
            contribute.
        loop: Length, speed and precision of the training. Set the number of steps here.
    """

    kl_weight: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})
    occupied_weight: float = field(default=1.5, metadata={"min": 0.1, "max": 100.0})
    hard_weight: float = field(default=4.0, metadata={"min": 0.1, "max": 100.0})
    content_aware: bool = True
    two_stage: bool = True
    fisheye_only: bool = False
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=740,
            batch_size=8,
            max_gradient_norm=5.0,
            ema_decay=0.99,
            workers=0,
            save_every=60,
        )
    )


def train_near_field(
    config: NearFieldTraining,
    shards: Sequence[Path],
    rig: Rig,
    out: Path,
    start: Path | None = None,
) -> NearField:
    """Train on simulated drives (see simulate_drives) of a rig, or resume the training in `out`.

    One of CALIBRATION_INTERVAL drives is left out of the training and used to calibrate the evidence.
    start: initial weights (.safetensors or a model). Writes out/near_field.safetensors. Returns the
    calibrated network on the CPU. Raises UserError.
    """
    settings = NearFieldSettings(content_aware=config.content_aware, two_stage=config.two_stage)
    network = build_network(settings, config.loop.seed)
    if start is not None:
        load_weights(network, start)
    held_out = shards[CALIBRATION_INTERVAL - 1 :: CALIBRATION_INTERVAL]
    training = [s for s in shards if s not in held_out]
    bar = tqdm(training, desc="features", unit="drive")
    samples = concatenate_samples(list(load_samples(bar, rig, network)))
    train(network, samples, config, out)
    if held_out:
        calibration = concatenate_samples(list(load_samples(held_out, rig, network)))
        calibrate_evidence(network, calibration, with_ultrasonics=not config.fisheye_only)
    if join_process_group()[0] == 0:
        save_weights(network, out / "near_field.safetensors")
    return network


def build_network(settings: NearFieldSettings | None = None, seed: int = 0) -> NearField:
    """A network before training; its image features have ImageNet weights and are not trained."""
    torch.manual_seed(seed)
    network = NearField(settings)
    imagenet = load_imagenet()
    network.backbone.stem.load_state_dict(imagenet.stem.state_dict())
    network.backbone.fine.load_state_dict(imagenet.stages[0].state_dict())
    network.backbone.coarse.load_state_dict(imagenet.stages[1].state_dict())
    network.backbone.requires_grad_(False)
    return network.eval()


class AugmentedSamples(Dataset[dict[str, Tensor]]):
    """Samples, mirrored and with missing sensors at random; a sample depends on (seed, epoch, index)
    only."""

    def __init__(self, samples: Samples, config: NearFieldTraining) -> None:
        self.samples, self.config = samples, config
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        s = self.samples
        rng = np.random.default_rng((self.config.loop.seed, self.epoch, index))
        sample_uv, has_ultrasonic, draw = s.sample_uv.clone(), 1.0, rng.random()
        if self.config.fisheye_only or draw < ULTRASONIC_DROPOUT:
            has_ultrasonic = 0.0
        elif draw < ULTRASONIC_DROPOUT + ALL_CAMERAS_DROPOUT:
            sample_uv[:] = -2.0
        missing = torch.from_numpy(rng.random(len(sample_uv)) < CAMERA_DROPOUT)
        # At least one sensor must remain.
        if not (has_ultrasonic == 0 and bool(missing.all())):
            sample_uv[missing] = -2.0
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]  # y and x of the cells
        cells = [axis - 1 for axis in flips]
        return {
            "fine": s.fine[index].float(),
            "coarse": s.coarse[index].float(),
            "sample_uv": sample_uv.flip([1 + axis for axis in flips]),
            "ultrasonic_grid": s.ultrasonic_grid[index].float().flip(flips),
            "has_ultrasonic": torch.tensor(has_ultrasonic),
            "labels": s.labels[index].long().flip(cells),
            "hard": s.hard[index].flip(cells),
        }


def train(network: NearField, samples: Samples, config: NearFieldTraining, out: Path) -> NearField:
    """Train on samples, or resume the training in `out`. Returns the network on the CPU."""
    loop = Loop(network, AugmentedSamples(samples, config), default_collate, config.loop, out)

    def compute_losses(
        module: nn.Module, batch: dict[str, Tensor], rng: np.random.Generator
    ) -> Losses:
        kl_weight = config.kl_weight * annealed(2.0 * loop.step / config.loop.steps)
        return batch_losses(module, batch, config, kl_weight)

    loop.run(compute_losses)
    return network.cpu()


def batch_losses(
    network: Any, batch: dict[str, Tensor], config: NearFieldTraining, kl_weight: float
) -> Losses:
    """Losses of a batch of AugmentedSamples."""
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labels, hard = batch.pop("labels"), batch.pop("hard")
    evidence, coarse_evidence, _ = network.decode(**batch)
    known = torch.where(labels < len(CLASSES), labels, -1)
    weights = torch.where(known > 0, config.occupied_weight, 1.0)
    weights = torch.where((known > 0) & hard, config.hard_weight, weights)
    losses = {"fine": cell_loss(evidence, labels, weights, kl_weight)}
    losses["total"] = losses["fine"]
    if coarse_evidence is not None:
        # The class of a coarse cell is the highest of its four cells.
        pool = torch.nn.functional.max_pool2d
        coarse = pool(known.float(), 2).long()
        coarse = torch.where(coarse < 0, 255, coarse)
        losses["coarse"] = cell_loss(coarse_evidence, coarse, pool(weights, 2), kl_weight)
        losses["total"] = losses["fine"] + 0.5 * losses["coarse"]
    return losses


def cell_loss(evidence: Tensor, labels: Tensor, weights: Tensor, kl_weight: float) -> Tensor:
    """Evidential loss of the labelled cells of grids.

    evidence: (B, K, H, W). labels: (B, H, W) int64; values of K and more are ignored. weights:
    (B, H, W), of the cells. kl_weight: weight of the divergence.
    """
    labelled = labels < evidence.shape[1]
    rows = evidence.permute(0, 2, 3, 1)[labelled]
    return evidential_loss(rows, labels[labelled], kl_weight, weights[labelled].to(rows.dtype))
