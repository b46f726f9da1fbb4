"""Training of MoE-Fusion on aligned pairs: real ones in folders, simulated ones in shards."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multimodal_perception.configuration import UserError, build
from multimodal_perception.datasets.simulation_writer import read_shard
from multimodal_perception.datasets.visible_thermal_pairs import held_out, pair_stems, read_pair
from multimodal_perception.evaluation.adversarial_attack import attacked, noisy
from multimodal_perception.networks.moe_fusion import MoEFusion
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.training.image_fusion.losses import FusionWeights, fusion_loss
from multimodal_perception.training.precision import mixed_precision

FOREGROUND = ("car", "van", "truck", "bus", "pedestrian", "cyclist")


@dataclass(frozen=True)
class FusionTraining:
    """How long and how.

    steps, batch, crop: batches, crops a batch, pixels a side. rate: peak of the learning rate.
    simulated: share of the crops that come from simulated pairs, where there are any. alike: share
    of the crops that show the visible image twice, as where no thermal camera sees. average: share of
    the running average kept each step. attack: share of the batches that are perturbed as PAIF (Liu
    et al. 2023) does, adversarially or by noise in turn. attack_size: largest change of a pixel.
    attack_steps: of projected gradient ascent. noise: largest standard deviation.
    """

    steps: int = field(default=2000, metadata={"min": 1, "max": 10_000_000})
    batch: int = field(default=4, metadata={"min": 1, "max": 1024})
    crop: int = field(default=128, metadata={"min": 32, "max": 1024})
    rate: float = field(default=2.5e-3, metadata={"min": 1e-7, "max": 1.0})
    simulated: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})
    alike: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    average: float = field(default=0.99, metadata={"min": 0.0, "max": 1.0})
    attack: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    attack_size: float = field(default=4 / 255, metadata={"min": 0.0, "max": 0.5})
    noise: float = field(default=0.04, metadata={"min": 0.0, "max": 0.5})
    attack_steps: int = field(default=3, metadata={"min": 1, "max": 100})
    weights: FusionWeights = field(default_factory=FusionWeights)


def checked(values: dict[str, Any]) -> FusionTraining:
    """The configuration of parsed values and what the command line put over them."""
    return build(FusionTraining, values, "train image-fusion")


@dataclass(frozen=True)
class Sample:
    """One pair in memory: three (H, W) uint8 images; foreground is 255 where something stands out."""

    visible: NDArray[np.uint8]
    thermal: NDArray[np.uint8]
    foreground: NDArray[np.uint8]


def real_samples(root: str | Path, progress: Any = iter) -> list[Sample]:
    """The pairs of a folder that are not held out for testing. Raises UserError.

    Foreground is what is warmer than its surroundings, as no labels are known.
    """
    stems = pair_stems(root)
    kept = sorted(set(stems) - set(held_out(stems)))
    if not kept:
        raise UserError(f"{root}: {len(stems)} pairs, all of them are held out for testing")
    pairs = (read_pair(root, stem) for stem in progress(kept))
    return [Sample(p.grey, p.thermal, thermal_saliency(p.thermal)) for p in pairs]


def thermal_saliency(thermal: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much warmer than its surroundings (a window of an eighth of the width) each pixel is."""
    values = thermal.astype(np.float32)
    around = cv2.GaussianBlur(values, (0, 0), max(thermal.shape[1] / 16, 1.0))
    spread = max(float(values.std()), 4.0)
    return np.clip(255 * ((values - around) / spread - 0.5), 0, 255).astype(np.uint8)


def simulated_samples(folders: Sequence[Path]) -> list[Sample]:
    """Pairs of `simulate --rig camera_thermal --format dataset` folders, foreground from labels.

    Raises UserError where a folder holds none.
    """
    labels = [SEMANTIC_NAMES.index(name) for name in FOREGROUND]
    samples = []
    for folder in folders:
        paths = sorted(folder.glob("[0-9]*.npz"))
        if not paths:
            raise UserError(f"{folder}: no .npz shards; `simulate --format dataset` writes them")
        for path in paths:
            arrays = read_shard(path)
            try:
                rgb, counts = arrays["camera.pixels"], arrays["thermal.pixels"]
                semantics = arrays["truth.camera.semantics"]
            except KeyError as error:
                raise UserError(f"{path}: no {error}; use --rig camera_thermal") from error
            low, high = np.percentile(counts, (1.0, 99.0))
            thermal = np.clip((counts - low) * (255.0 / max(high - low, 16.0)), 0, 255)
            mask = np.isin(semantics, labels).astype(np.uint8) * 255
            grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
            samples.append(Sample(grey, thermal.astype(np.uint8), mask))
    return samples


class CropSource:
    """Random crops of samples, varied in scale, side, brightness and contrast."""

    def __init__(
        self, real: Sequence[Sample], simulated: Sequence[Sample], config: FusionTraining
    ) -> None:
        self._real, self._simulated, self._config = real, simulated, config

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Visible, thermal and foreground, (B, 1, crop, crop) float32 in [0, 1] each."""
        crops = [self._crop(rng) for _ in range(self._config.batch)]
        visible, thermal, foreground = (
            torch.from_numpy(np.stack(images)[:, None]) for images in zip(*crops, strict=True)
        )
        return visible, thermal, foreground

    def _crop(self, rng: np.random.Generator) -> list[NDArray[np.float32]]:
        size = self._config.crop
        simulated = self._simulated and rng.random() < self._config.simulated
        samples = self._simulated if simulated or not self._real else self._real
        sample = samples[int(rng.integers(len(samples)))]
        height, width = sample.visible.shape
        # Thermal cameras are coarser than the others: crops are enlarged more often than shrunk.
        scale = max(rng.uniform(0.75, 1.6), size / height, size / width)
        taken = min(round(size / scale), height, width)
        top, left = rng.integers(height - taken + 1), rng.integers(width - taken + 1)
        flip = rng.random() < 0.5
        result = []
        for image in (sample.visible, sample.thermal, sample.foreground):
            crop = cv2.resize(
                image[top : top + taken, left : left + taken],
                (size, size),
                interpolation=cv2.INTER_LINEAR if taken <= size else cv2.INTER_AREA,
            )
            result.append((crop[:, ::-1] if flip else crop).astype(np.float32) / 255)
        if rng.random() < self._config.alike:
            result[1] = result[0].copy()
        for k in range(2):
            if rng.random() < 0.5:
                gamma, gain = np.exp(rng.normal(0, 0.25)), rng.uniform(0.6, 1.1)
                result[k] = np.clip(gain * result[k] ** gamma, 0, 1).astype(np.float32)
        return result


class Trainer:
    """Everything that a step changes, and the step. averaged: the running average of the weights."""

    def __init__(
        self,
        config: FusionTraining,
        real: Sequence[Sample],
        simulated: Sequence[Sample],
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.seed, self.steps_done = config, seed, 0
        self.network = MoEFusion()
        self.averaged = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.rate, weight_decay=1e-4
        )
        self._crops = CropSource(real, simulated, config)

    @property
    def state(self) -> nn.ModuleDict:
        """What a checkpoint holds beside the optimiser."""
        return nn.ModuleDict({"network": self.network, "averaged": self.averaged})

    def step(self) -> dict[str, float]:
        """Learn from one batch; the parts of the loss. Step k draws the same whoever resumes.

        Raises UserError when the loss is not finite.
        """
        c = self.config
        rng = np.random.default_rng((self.seed, self.steps_done))
        torch.manual_seed(int(rng.integers(2**31)))
        for group in self.optimiser.param_groups:
            group["lr"] = c.rate * one_cycle(self.steps_done / c.steps)
        visible, thermal, foreground = self._crops.batch(rng)
        inputs = visible, thermal
        self.network.train()
        if rng.random() < c.attack:
            inputs = self._perturbed(visible, thermal, rng)
        with mixed_precision("cpu"):
            result = self.network(*inputs)
        # Perturbed inputs are to give what the clean ones should.
        loss, parts = fusion_loss(result, visible, thermal, foreground, c.weights)
        if not torch.isfinite(loss):
            raise UserError(f"step {self.steps_done}: the loss is not finite; try a lower rate")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self._average()
        self.steps_done += 1
        return {name: float(value.detach()) for name, value in parts.items()}

    def _perturbed(
        self, visible: Tensor, thermal: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        if rng.random() < 0.5:
            amounts = rng.uniform(0.0, self.config.noise, 2)
            return noisy(visible, amounts[0]), noisy(thermal, amounts[1])

        def fuse(first: Tensor, second: Tensor) -> Tensor:
            with mixed_precision("cpu"):
                return self.network(first, second).fused

        self.network.eval()  # without the gates' noise
        moved = attacked(fuse, visible, thermal, self.config.attack_size, self.config.attack_steps)
        self.network.train()
        return moved

    @torch.no_grad()
    def _average(self) -> None:
        # Early on the average follows fast, or it would keep the beginning.
        decay = min(self.config.average, (1 + self.steps_done) / (10 + self.steps_done))
        for mean, live in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(live, 1.0 - decay)


def one_cycle(done: float) -> float:
    """Share of the peak rate: up over the first twentieth, then down a cosine to a hundredth."""
    if done < 0.05:
        return 0.1 + 0.9 * done / 0.05
    return float(0.01 + 0.99 * 0.5 * (1.0 + np.cos(np.pi * min((done - 0.05) / 0.95, 1.0))))
