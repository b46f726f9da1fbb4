"""Training of RGB-X segmentation, so that one network does with both images or with either.

Each batch holds its images twice: complete, and with one image masked out. Both learn the labels; the
second also learns what the first says (distillation from the full-modality teacher, as Any2Seg does,
where here teacher and student are the same network and the teacher's side is held constant).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.configuration import UserError, build
from multimodal_perception.networks.rgb_thermal_segmentation import Fusion, RgbxSegmentation
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training import checkpoint
from multimodal_perception.training.precision import mixed_precision
from multimodal_perception.training.segmentation.dataset import (
    INPUT_WIDTH,
    Augmentation,
    Batch,
    Sampler,
    View,
    collate,
    whole,
)

CLASSES = len(SEGMENTATION_CLASSES)
INPUT_ROWS = 256


@dataclass(frozen=True)
class SegmentationTraining:
    """How long and how.

    fusion: cmx, ssma, or one image alone (visible, other). steps, batch, crop: batches, images in
    each, rows and columns. rate: peak of the learning rate; of the backbones a third. distillation:
    weight of the teacher. temperature: of its softmax. alone: how much views with one image count
    beside those with both. average: decay of the averaged weights.
    rare: exponent by which rare classes weigh more; they are sought as well, and with more weight they
    are called where they are not.
    """

    fusion: Fusion = "cmx"
    steps: int = field(default=1200, metadata={"min": 1, "max": 10_000_000})
    batch: int = field(default=4, metadata={"min": 1, "max": 1024})
    crop: tuple[int, int] = (160, 256)
    rate: float = field(default=2e-3, metadata={"min": 1e-7, "max": 1.0})
    weight_decay: float = field(default=0.01, metadata={"min": 0.0, "max": 1.0})
    distillation: float = field(default=0.3, metadata={"min": 0.0, "max": 100.0})
    temperature: float = field(default=2.0, metadata={"min": 0.1, "max": 100.0})
    alone: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0})
    average: float = field(default=0.99, metadata={"min": 0.0, "max": 0.99999})
    rare: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if any(side < 64 or side % 32 for side in self.crop):
            raise ValueError("crop: rows and columns must be multiples of 32, at least 64")


def checked(values: dict[str, Any]) -> SegmentationTraining:
    """The configuration of parsed values and what the command line put over them."""
    return build(SegmentationTraining, values, "train segmentation")


def take_backbones(network: RgbxSegmentation, path: Path) -> None:
    """Put the backbones of another fusion's weights in place, and what fits of its decoder.

    So that fusions are compared by what they fuse. Raises UserError for a file that lacks a backbone.
    """
    given = checkpoint.read_weights(path)
    own = network.state_dict()
    taken = {
        name: tensor
        for name, tensor in given.items()
        if name.startswith(("streams.", "decoder."))
        and name in own
        and tensor.shape == own[name].shape
    }
    missing = [n for n in own if n.startswith("streams.") and n not in taken]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing: no backbones of {network.fusion}")
    network.load_state_dict(taken, strict=False)


class Trainer:
    """Everything that a step changes, and the step. Step k draws the same whoever resumes."""

    def __init__(
        self, config: SegmentationTraining, views: list[View], own: list[View], seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.seed = seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = RgbxSegmentation(CLASSES, config.fusion, pretrained=True)
        own = own if config.fusion != "visible" else []
        self._sampler = Sampler(views, own, config.crop, config.augmentation)
        if "1" in network.streams:
            _measure_statistics(network.streams["1"], views)
        network = network.to(self.device)
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.network = network
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        groups = _frozen_and_grouped(network, config)
        keep_depthwise_in_float32(network)
        self.optimiser = torch.optim.AdamW(groups, config.rate, weight_decay=config.weight_decay)
        self.steps_done = 0
        self._class_weights = class_weights(views, config.rare).to(self.device)

    @property
    def state(self) -> nn.ModuleDict:
        """What a checkpoint holds beside the optimiser."""
        return nn.ModuleDict({"network": self.network, "averaged": self.averaged})

    def step(self) -> dict[str, float]:
        """Learn from one batch; the losses by name."""
        c = self.config
        rng = np.random.default_rng((self.seed, self.steps_done))
        batch = self._sampler.batch(c.batch, rng)
        both = c.fusion in ("cmx", "ssma")
        if both:
            batch = twice(batch, rng)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * schedule(self.steps_done, c.steps)
        _train_mode(self.network)
        with mixed_precision(self.device.type):
            logits = self.network(*self._inputs(batch))
        logits = logits.float()
        labels = batch.labels.to(self.device)
        size = labels.shape[-2:]
        large = F.interpolate(logits, size, mode="bilinear")
        # The first half has both images, the second one of them.
        shares = (1.0, c.alone) if both else (1.0,)
        losses = {"labels": logits.new_zeros(()), "overlap": logits.new_zeros(())}
        for part, truth, share in zip(
            large.chunk(len(shares)), labels.chunk(len(shares)), shares, strict=True
        ):
            counts = share / sum(shares)
            entropy = F.cross_entropy(part, truth, self._class_weights, ignore_index=IGNORED)
            losses["labels"] = losses["labels"] + counts * entropy
            losses["overlap"] = losses["overlap"] + counts * overlap_loss(part, truth)
        loss = losses["labels"] + 0.5 * losses["overlap"]
        if both and c.distillation > 0:
            losses["teacher"] = distillation_loss(logits, labels, c.temperature)
            loss = loss + c.distillation * losses["teacher"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._average()
        self.steps_done += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _inputs(self, batch: Batch) -> list[Tensor]:
        tensors = (batch.visible, batch.other, batch.visible_mask, batch.other_mask)
        return [t.to(self.device).contiguous(memory_format=torch.channels_last) for t in tensors]

    @torch.no_grad()
    def _average(self) -> None:
        # Early on the average follows fast, or it would keep the beginning.
        decay = min(self.config.average, (1 + self.steps_done) / (10 + self.steps_done))
        live = self.network.state_dict()
        for name, mean in self.averaged.state_dict().items():
            if mean.dtype.is_floating_point:
                mean.lerp_(live[name], 1.0 - decay)
            else:
                mean.copy_(live[name])

    @torch.no_grad()
    def validate(self, views: list[View]) -> dict[str, float]:
        """mIoU of the averaged network on views, whole: with both, visible alone, other alone."""
        from multimodal_perception.evaluation.segmentation import Confusion

        cases = {"both": (1.0, 1.0), "visible": (1.0, 0.0), "other": (0.0, 1.0)}
        if self.config.fusion in ("visible", "other"):
            cases = {self.config.fusion: (1.0, 1.0)}
        scores = {}
        for name, (visible, other) in cases.items():
            confusion = Confusion(SEGMENTATION_CLASSES)
            for view in views:
                batch = collate([whole(view, INPUT_ROWS, INPUT_WIDTH)])
                a, b, ma, mb = self._inputs(batch)
                with mixed_precision(self.device.type):
                    logits = self.averaged(a, b, ma * visible, mb * other)
                large = F.interpolate(logits.float(), batch.labels.shape[-2:], mode="bilinear")
                confusion.add(batch.labels[0].numpy(), large.argmax(1)[0].cpu().numpy())
            scores[name] = confusion.mean_iou
        return scores


def train(
    trainer: Trainer,
    validation: list[View],
    every: int,
    tell: Callable[[int, dict[str, float]], None],
    save: Callable[[], None],
    progress: Callable[[range], Any] = iter,
) -> None:
    """Go on to the last step; tell(step, figures) of losses each step and of scores now and then."""
    for step in progress(range(trainer.steps_done, trainer.config.steps)):
        figures = {f"loss/{name}": value for name, value in trainer.step().items()}
        last = step + 1 == trainer.config.steps
        if (step + 1) % every == 0 or last:
            save()
            scores = trainer.validate(validation)
            figures |= {f"miou/{name}": value for name, value in scores.items()}
        tell(step + 1, figures)


def twice(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch, then the batch again with one image of each sample masked out.

    Where a sample has one image alone, that one stays.
    """
    count = len(batch.labels)
    keep_visible = torch.from_numpy((rng.random(count) < 0.5).astype(np.float32))[
        :, None, None, None
    ]
    has_visible = batch.visible_mask.amax(dim=(1, 2, 3), keepdim=True)
    has_other = batch.other_mask.amax(dim=(1, 2, 3), keepdim=True)
    keep_visible = torch.where(has_other > 0, keep_visible * has_visible, 1.0)

    def doubled(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b])

    return Batch(
        doubled(batch.visible, batch.visible),
        doubled(batch.other, batch.other),
        doubled(batch.visible_mask, batch.visible_mask * keep_visible),
        doubled(batch.other_mask, batch.other_mask * (1 - keep_visible)),
        doubled(batch.labels, batch.labels),
    )


def distillation_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL divergence (Hinton et al. 2015) of the second half from the first, where labels count."""
    teacher, student = (logits / temperature).chunk(2)
    counts = F.interpolate((labels != IGNORED).float()[:, None], logits.shape[-2:])[
        : len(teacher), 0
    ]
    log_student = student.log_softmax(1)
    log_teacher = teacher.detach().log_softmax(1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    return temperature**2 * (divergence * counts).sum() / counts.sum().clamp_min(1.0)


def overlap_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the soft Dice of each class that the batch shows (Milletari et al. 2016)."""
    share = logits.softmax(1)
    counts = labels != IGNORED
    truth = F.one_hot(torch.where(counts, labels, 0), logits.shape[1]).permute(0, 3, 1, 2)
    truth = truth * counts[:, None]
    share = share * counts[:, None]
    inside = (share * truth).sum(dim=(0, 2, 3))
    total = share.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    shown = truth.sum(dim=(0, 2, 3)) > 0
    dice = 2.0 * inside / total.clamp_min(1.0)
    return 1.0 - dice[shown].mean() if bool(shown.any()) else dice.sum() * 0.0


def class_weights(views: list[View], exponent: float) -> Tensor:
    """Weight (classes,) of each class by how rare it is, mean 1 over the pixels, 8 at most."""
    counts = np.zeros(256, np.int64)
    for view in views[:: max(len(views) // 200, 1)]:
        counts += np.bincount(view.labels.ravel(), minlength=256)
    share = np.maximum(counts[:CLASSES] / max(counts[:CLASSES].sum(), 1), 1e-4)
    weights = share**-exponent
    weights /= (weights * share).sum()
    return torch.from_numpy(np.minimum(weights, 8.0).astype(np.float32))


def schedule(step: int, steps: int) -> float:
    """Share of the peak rate: a linear rise over the first twentieth, then half a cosine."""
    rise = max(steps // 20, 1)
    if step < rise:
        return (step + 1) / rise
    return 0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * (step - rise) / max(steps - rise, 1))))


def _frozen_and_grouped(
    network: RgbxSegmentation, config: SegmentationTraining
) -> list[dict[str, Any]]:
    """The visible stem and first stage keep ImageNet's weights, which know photographs; the rest of the
    backbones learns slowly."""
    if "0" in network.streams:
        visible = network.streams["0"]
        for part in (visible.stem, visible.stages[0]):  # type: ignore[index]
            part.requires_grad_(False)
    backbone = [p for p in network.streams.parameters() if p.requires_grad]
    known = {id(p) for p in network.streams.parameters()}
    rest = [p for p in network.parameters() if id(p) not in known]
    return [
        {"params": backbone, "peak": config.rate / 3},
        {"params": rest, "peak": config.rate},
    ]


def _train_mode(network: RgbxSegmentation) -> None:
    """The backbones' batch statistics stay as they are: masked images would spoil them."""
    network.train()
    for stream in network.streams.values():
        stream.eval()


@torch.no_grad()
def _measure_statistics(stream: nn.Module, views: list[View]) -> None:
    """Batch statistics of X's stream, by images of its kind: ImageNet's are those of photographs."""
    norms = [m for m in stream.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    stream.train()
    picked = views[:: max(len(views) // 32, 1)][:32]
    for i in range(0, len(picked), 8):
        batch = collate([whole(v, INPUT_ROWS, INPUT_WIDTH) for v in picked[i : i + 8]])
        stream(torch.where(batch.other_mask > 0.5, 2.0 * batch.other - 1.0, 0.0))
    stream.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Depthwise convolutions leave autocast on the CPU: their gradients in bfloat16 take oneDNN more
    than twice as long as in float32."""
    if torch.cuda.is_available():
        return

    before: list[bool] = []

    def leave_autocast(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        before.append(torch.is_autocast_enabled("cpu"))
        torch.set_autocast_enabled("cpu", False)
        return (inputs[0].float(),)

    def enter_again(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        torch.set_autocast_enabled("cpu", before.pop())

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_pre_hook(leave_autocast)
            module.register_forward_hook(enter_again)
