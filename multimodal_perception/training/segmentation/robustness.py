"""Training of the segmentation network against perturbed images.

Three measures, each with a setting of its own:

- adversarial training on the segmentation loss: some samples are replaced by the result of a projected
  gradient attack on both of their images (Madry et al. 2018; on both modalities as in PAIF, Liu et al.
  2023);
- balanced margins: the modality with the smaller margin is trained to have a larger one (CRMT, Yang et
  al., ICLR 2024, eq. 12);
- context and objects from different images, after contextual fusion (Akumalla, Haney and Bazhenov 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.evaluation.adversarial_attack import projected_gradient_ascent
from multimodal_perception.networks.efficientnet_lite import PIXEL_MEAN, PIXEL_STD
from multimodal_perception.networks.rgb_thermal_segmentation import RgbThermalSegmentation
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.precision import full_precision
from multimodal_perception.training.segmentation.dataset import Batch

# Values of the network's inputs for the pixel levels 0 and 255, and their change for one level.
VISIBLE_RANGE = (0.0 - PIXEL_MEAN) / PIXEL_STD, (255.0 - PIXEL_MEAN) / PIXEL_STD
VISIBLE_LEVEL = 1.0 / PIXEL_STD
THERMAL_RANGE = 0.0, 1.0
THERMAL_LEVEL = 1.0 / 255.0
# Length of a step as a fraction of the bound: SINGLE_STEP with one step (Wong et al. 2020), otherwise
# REACH divided by the number of steps, so that the bound can be reached from every start.
SINGLE_STEP = 1.25
REACH = 2.5
# Classes of objects; all other classes are context.
OBJECT_CLASSES = ("vehicle", "person", "cyclist", "pole")
# Side of the square blocks of context and of objects, pixels. With smaller blocks, the masks would
# contain the outlines of the objects.
BLOCK = 32


@dataclass(frozen=True)
class AdversarialConfig:
    """Adversarial training (PAIF, Liu et al. 2023, on the segmentation loss).

    A training step takes about 1 + 0.8 x fraction x steps times as long as without it.

    Attributes:
        fraction: Fraction of the samples whose images are attacked in the training step; 0 turns
            adversarial training off. Increase it when attacks matter more than clean images, whose mIoU
            decreases.
        epsilon: Largest change of a pixel of the camera image, in levels of 8 bits, and of the
            normalised thermal image, in 255ths of its range. Set it to the bound of the attacks that the
            network must withstand; larger ones reduce the mIoU on clean images.
        steps: Gradient steps of the attack, each of which costs a forward and a backward pass. Increase
            it when the network is robust against the attacks of the training but not against stronger
            ones.
    """

    fraction: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    epsilon: float = field(default=4.0, metadata={"min": 0.0, "max": 64.0, "unit": "1/255"})
    steps: int = field(default=1, metadata={"min": 1, "max": 100})


@dataclass(frozen=True)
class MarginConfig:
    """Modality-balanced margins (CRMT, Yang et al. 2024).

    Attributes:
        weight: Weight of the loss on the margin of the modality with the smaller margin; 0 turns it off.
            Increase it when the network depends on one of the two images; two forward and backward
            passes of the samples with both images are added to a step.
        target: Margin that is large enough: the logit of the true class minus the log-sum-exp of the
            others. Increase it for decisions that change less easily; probabilities become more extreme.
    """

    weight: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})
    target: float = field(default=2.0, metadata={"min": 0.0, "max": 100.0})


def with_attacked_samples(
    network: RgbThermalSegmentation,
    batch: Batch,
    config: AdversarialConfig,
    weights: Tensor,
    rng: np.random.Generator,
    attack_second: bool = True,
) -> Batch:
    """The batch with attacked images in about `config.fraction` of its samples.

    weights: (classes,) of the cross entropy that the attack increases. attack_second: whether the
    second image is attacked, which must be in THERMAL_RANGE then. Masked pixels do not change. The
    result depends on the batch, the network and the random generator only.
    """
    chosen = torch.from_numpy(rng.random(len(batch.labels)) < config.fraction)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    if not chosen.any() or config.epsilon == 0:
        return batch
    visible, thermal = batch.visible.clone(), batch.thermal.clone()
    with frozen_batch_statistics(network):
        for kind, indices in image_groups(batch):
            rows = indices[chosen[indices]]
            if len(rows) and kind:
                part = select_samples(batch, rows)
                images = _attack(network, part, config, weights, generator, attack_second)
                visible[rows], thermal[rows] = images
    return replace(batch, visible=visible, thermal=thermal)


def _attack(
    network: RgbThermalSegmentation,
    batch: Batch,
    config: AdversarialConfig,
    weights: Tensor,
    generator: torch.Generator,
    attack_second: bool,
) -> tuple[Tensor, Tensor]:
    """Attacked visible and thermal images of a batch in which all samples have the same images."""
    device = weights.device
    visible, thermal, *masks = network_inputs(batch, device)
    # The logits have half the size of the images.
    labels = batch.labels[:, ::2, ::2].to(device)

    def objective(images: list[Tensor]) -> Tensor:
        logits = network(images[0], images[1] if attack_second else thermal, *masks)
        with full_precision(device):
            # A sum: samples do not influence each other, and it is 0 without a label.
            return F.cross_entropy(
                logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum"
            )

    images, bounds = [visible], [config.epsilon * VISIBLE_LEVEL * masks[0]]
    ranges = [VISIBLE_RANGE]
    if attack_second:
        images.append(thermal)
        bounds.append(config.epsilon * THERMAL_LEVEL * masks[1])
        ranges.append(THERMAL_RANGE)
    step = SINGLE_STEP if config.steps == 1 else REACH / config.steps
    attacked = projected_gradient_ascent(
        objective, images, bounds, ranges, config.steps, step, generator
    )
    second = attacked[1] if attack_second else thermal
    return attacked[0].to(batch.visible.device), second.to(batch.thermal.device)


def margin_loss(
    network: RgbThermalSegmentation, batch: Batch, target: float, device: torch.device
) -> Tensor:
    """Mean of target minus the margin, where that is positive, of the modality with the smaller margin.

    The margin of a modality is that of the logits that the network computes from this modality alone.
    CRMT minimises the negative margin of the weaker modality (eq. 12), which has no lower bound; here
    the loss of a pixel is 0 if its margin is at least the target. Only pixels with a label and inside of
    both images count; without such pixels the loss is 0. CRMT's second step has no counterpart,
    because the network has no classifier for each modality whose weights could be balanced.
    """
    both = (batch.visible_mask * batch.thermal_mask).flatten(1).amax(dim=1) > 0
    rows = both.nonzero()[:, 0]
    if not len(rows):
        return torch.zeros((), device=device)
    part = select_samples(batch, rows)
    visible, thermal, visible_mask, thermal_mask = network_inputs(part, device)
    labels = part.labels[:, ::2, ::2].to(device)
    none = torch.zeros_like(visible_mask)
    with frozen_batch_statistics(network):
        alone = (
            network(visible, thermal, visible_mask, none),
            network(visible, thermal, none, thermal_mask),
        )
    inside = (visible_mask * thermal_mask)[:, 0, ::2, ::2] > 0.5
    counted = inside & (labels != IGNORED)
    with full_precision(device):
        margins = [margin(logits.float(), labels) for logits in alone]
        gaps = F.relu(target - torch.minimum(*margins))
        return (gaps * counted).sum() / counted.sum().clamp_min(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the true class minus the log-sum-exp of the other classes (B, H, W).

    logits: (B, classes, H, W). labels: (B, H, W); pixels without a label have the margin of class 0.
    """
    truth = torch.where(labels == IGNORED, 0, labels)[:, None]
    others = logits.scatter(1, truth, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, truth)[:, 0] - others


def split_context_and_objects(batch: Batch, fraction: float, rng: np.random.Generator) -> Batch:
    """The batch with the context in one image and the objects in the other, in a part of the samples.

    In about `fraction` of the samples with both images, the blocks that contain pixels of
    OBJECT_CLASSES are masked out in one image, chosen at random, and all other blocks in the other
    image. Samples without such pixels do not change. Contextual fusion (Akumalla et al. 2020) fuses a
    network for the background, trained on scenes, with a network for the foreground, trained on objects;
    here each of the two encoders is trained with context in some samples and with objects in others.
    """
    count = len(batch.labels)
    chosen, swapped = rng.random(count) < fraction, rng.random(count) < 0.5
    objects = torch.zeros(batch.labels.shape, dtype=torch.bool)
    for name in OBJECT_CLASSES:
        objects |= batch.labels == SEGMENTATION_CLASSES.index(name)
    rows, columns = objects.shape[-2:]
    blocks = F.max_pool2d(objects[:, None].float(), BLOCK, ceil_mode=True)
    near = blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., :rows, :columns]
    present = [m.flatten(1).amax(dim=1) > 0 for m in (batch.visible_mask, batch.thermal_mask)]
    split = torch.from_numpy(chosen) & present[0] & present[1] & (near.flatten(1).amax(dim=1) > 0)
    swap = torch.from_numpy(swapped)[:, None, None, None]
    changed = split[:, None, None, None]
    parts = torch.where(swap, near, 1.0 - near), torch.where(swap, 1.0 - near, near)
    return replace(
        batch,
        visible_mask=torch.where(changed, batch.visible_mask * parts[0], batch.visible_mask),
        thermal_mask=torch.where(changed, batch.thermal_mask * parts[1], batch.thermal_mask),
    )


def image_groups(batch: Batch) -> list[tuple[int, Tensor]]:
    """Indices of the samples that have the same images: 1 visible, 2 thermal, 3 both, 0 none."""
    present = [m.flatten(1).amax(dim=1) > 0 for m in (batch.visible_mask, batch.thermal_mask)]
    kinds = present[0].int() + 2 * present[1].int()
    return [(kind, (kinds == kind).nonzero()[:, 0]) for kind in kinds.unique().tolist()]


def select_samples(batch: Batch, rows: Tensor) -> Batch:
    """The samples of a batch with these indices."""
    return Batch(*(getattr(batch, f.name)[rows] for f in fields(Batch)))


def network_inputs(batch: Batch, device: torch.device) -> list[Tensor]:
    """The arguments of RgbThermalSegmentation for a batch."""
    tensors = (batch.visible, batch.thermal, batch.visible_mask, batch.thermal_mask)
    return [t.to(device).contiguous(memory_format=torch.channels_last) for t in tensors]


@contextmanager
def frozen_batch_statistics(network: nn.Module) -> Iterator[None]:
    """Use the running statistics of batch normalisation, and do not change them."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
