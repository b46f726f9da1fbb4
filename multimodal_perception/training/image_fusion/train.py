"""Training of MoE-Fusion on aligned pairs of visible and thermal images, real or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.simulation_writer import read_shard
from multimodal_perception.datasets.visible_thermal_pairs import (
    held_out_stems,
    list_pair_stems,
    read_pair,
)
from multimodal_perception.evaluation.adversarial_attack import (
    add_gaussian_noise,
    projected_gradient_attack,
)
from multimodal_perception.networks.moe_fusion import FusedOnly, MoEFusion
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.training.checkpoint import load_weights, save_weights
from multimodal_perception.training.image_fusion.losses import FusionWeights, fusion_loss
from multimodal_perception.training.image_fusion.samples import Sample
from multimodal_perception.training.loop import Loop, LoopConfig, Losses
from multimodal_perception.training.precision import full_precision

# Classes of the simulator that belong to the foreground.
FOREGROUND = (
    "car",
    "van",
    "truck",
    "bus",
    "trailer",
    "pedestrian",
    "cyclist",
    "motorcyclist",
)
# Crops are drawn at random; an epoch is a number of them.
CROPS_PER_EPOCH = 4096


@dataclass(frozen=True)
class ImageFusionTraining:
    """Training of the image fusion network.

    Attributes:
        crop_size: Rows and columns of the square crops that the network is trained on. Decrease it when
            memory runs out.
        simulated_fraction: Fraction of the crops that are taken from simulated pairs when there are both
            real and simulated ones. Increase it when there are few real pairs.
        identical_fraction: Fraction of the crops in which the thermal image is replaced by the visible
            one, as in the part of the image that the thermal camera does not cover. Increase it when
            fused images degrade there.
        attack_fraction: Fraction of the batches that are perturbed as in PAIF (Liu et al. 2023), by
            turns adversarially and with noise. Increase it for robustness at the price of contrast.
        attack_size: Largest change of a pixel by the adversarial attack, for images in [0, 1]. Increase
            it to train against stronger attacks.
        attack_steps: Steps of projected gradient ascent of an attack. Increase it for stronger attacks;
            each step costs a forward and a backward pass.
        noise: Largest standard deviation of the noise in a perturbed batch, for images in [0, 1].
            Increase it for noisier cameras.
        weights: Weights of the parts of the loss. Change them to shift the balance between edges,
            brightness and contrast of fused images.
        loop: Length, speed and precision of the training. Set the number of steps here.
    """

    crop_size: int = field(default=128, metadata={"min": 32, "max": 1024, "unit": "px"})
    simulated_fraction: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})
    identical_fraction: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    attack_fraction: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    attack_size: float = field(default=4 / 255, metadata={"min": 0.0, "max": 0.5})
    attack_steps: int = field(default=3, metadata={"min": 1, "max": 100})
    noise: float = field(default=0.04, metadata={"min": 0.0, "max": 0.5})
    weights: FusionWeights = field(default_factory=FusionWeights)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            learning_rate=2.5e-3,
            warmup=0.05,
            weight_decay=1e-4,
            max_gradient_norm=1.0,
            ema_decay=0.99,
            workers=0,
        )
    )


def real_samples(root: str | Path, progress: Any = iter) -> list[Sample]:
    """The image pairs of a folder that are not held out for testing. Raises UserError.

    There are no labels: pixels that are warmer than their surroundings are taken as foreground.
    """
    stems = list_pair_stems(root)
    kept = sorted(set(stems) - set(held_out_stems(stems)))
    if not kept:
        raise UserError(f"{root}: {len(stems)} pairs, all of them are held out for testing")
    pairs = (read_pair(root, stem) for stem in progress(kept))
    return [Sample(p.grey, p.thermal, thermal_saliency(p.thermal)) for p in pairs]


def thermal_saliency(thermal: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How much warmer each pixel is than its surroundings, (H, W) uint8.

    The surroundings are a Gaussian window with a standard deviation of 1/16 of the image width.
    """
    values = thermal.astype(np.float32)
    surroundings = cv2.GaussianBlur(values, (0, 0), max(thermal.shape[1] / 16, 1.0))
    spread = max(float(values.std()), 4.0)
    return np.clip(255 * ((values - surroundings) / spread - 0.5), 0, 255).astype(np.uint8)


def simulated_samples(folders: Sequence[Path]) -> list[Sample]:
    """The image pairs of folders written by `simulate --rig camera_thermal --format dataset`.

    The foreground is taken from the semantic labels. Raises UserError for a folder without such pairs.
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


class CropDataset(Dataset[NDArray[np.float32]]):
    """Random crops of samples, augmented in scale, mirroring, brightness and contrast.

    A crop depends on (seed, epoch, index) only: (3, crop_size, crop_size) float32 in [0, 1], the visible
    image, the thermal image and the foreground.
    """

    def __init__(
        self, real: Sequence[Sample], simulated: Sequence[Sample], config: ImageFusionTraining
    ) -> None:
        self._real, self._simulated, self._config = real, simulated, config
        self.epoch = 0

    def __len__(self) -> int:
        return CROPS_PER_EPOCH

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        c = self._config
        rng = np.random.default_rng((c.loop.seed, self.epoch, index))
        size = c.crop_size
        simulated = self._simulated and rng.random() < c.simulated_fraction
        samples = self._simulated if simulated or not self._real else self._real
        sample = samples[int(rng.integers(len(samples)))]
        height, width = sample.visible.shape
        # Thermal images have a lower resolution than visible ones: crops are enlarged more often.
        scale = max(rng.uniform(0.75, 1.6), size / height, size / width)
        side = min(round(size / scale), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        mirrored = rng.random() < 0.5
        crops = []
        for image in (sample.visible, sample.thermal, sample.foreground):
            crop = cv2.resize(
                image[top : top + side, left : left + side],
                (size, size),
                interpolation=cv2.INTER_LINEAR if side <= size else cv2.INTER_AREA,
            )
            crops.append((crop[:, ::-1] if mirrored else crop).astype(np.float32) / 255)
        if rng.random() < c.identical_fraction:
            crops[1] = crops[0].copy()
        for k in range(2):
            if rng.random() < 0.5:
                gamma, gain = np.exp(rng.normal(0, 0.25)), rng.uniform(0.6, 1.1)
                crops[k] = np.clip(gain * crops[k] ** gamma, 0, 1).astype(np.float32)
        return np.stack(crops)


def collate(crops: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor, Tensor]:
    """Visible images, thermal images and foregrounds, (B, 1, crop_size, crop_size) float32 each."""
    visible, thermal, foreground = torch.from_numpy(np.stack(crops)).split(1, dim=1)
    return visible, thermal, foreground


def train_image_fusion(
    config: ImageFusionTraining,
    real: Sequence[Sample],
    simulated: Sequence[Sample],
    out: Path,
    start: Path | None = None,
) -> MoEFusion:
    """Train on real and simulated samples, or resume the training in `out`.

    start: weights (.safetensors, or a model) to start from. Writes out/image_fusion.safetensors. Returns
    the network with averaged weights. Raises UserError without samples, and when the loss is not finite.
    """
    if not real and not simulated:
        raise UserError(
            "image fusion: there are neither real nor simulated image pairs to train on"
        )
    torch.manual_seed(config.loop.seed)
    network = MoEFusion()
    if start is not None:
        load_weights(FusedOnly(network), start)
    loop = Loop(network, CropDataset(real, simulated, config), collate, config.loop, out)

    def compute_losses(module: nn.Module, batch: Any, rng: np.random.Generator) -> Losses:
        return batch_losses(module, batch, config, rng)

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(FusedOnly(network), out / "image_fusion.safetensors")
    return network


def batch_losses(
    network: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor],
    config: ImageFusionTraining,
    rng: np.random.Generator,
) -> Losses:
    """Losses of a batch of crops, which is perturbed with a probability of attack_fraction.

    The fused image of perturbed inputs is compared with the unperturbed inputs.
    """
    device = next(network.parameters()).device
    visible, thermal, foreground = (image.to(device) for image in batch)
    inputs = visible, thermal
    if rng.random() < config.attack_fraction:
        inputs = _perturb(network, visible, thermal, config, rng)
    result = network(*inputs)
    with full_precision(device):
        total, parts = fusion_loss(result, visible, thermal, foreground, config.weights)
    return {**parts, "total": total}


def _perturb(
    network: nn.Module,
    visible: Tensor,
    thermal: Tensor,
    config: ImageFusionTraining,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Both images with Gaussian noise, or after an adversarial attack on the network."""
    if rng.random() < 0.5:
        deviations = rng.uniform(0.0, config.noise, 2)
        return (
            add_gaussian_noise(visible, deviations[0]),
            add_gaussian_noise(thermal, deviations[1]),
        )

    def fuse(first: Tensor, second: Tensor) -> Tensor:
        return network(first, second).fused

    network.eval()  # the gates of the experts add noise in training mode
    perturbed = projected_gradient_attack(
        fuse, visible, thermal, config.attack_size, config.attack_steps
    )
    network.train()
    return perturbed
