"""Training of the segmentation network on visible and thermal images, either of which may be missing.

With both images as input, each batch contains its samples a second time with one image of each
masked out. Optionally the predictions with one image are trained to match those with both images
(distillation). Unlike Any2Seg, which distils from separate teachers, the same network is teacher
and student here: the predictions with both images are the target, through which no gradient flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.networks.rgb_thermal_detection import CLASSES as DETECTOR_CLASSES
from multimodal_perception.networks.rgb_thermal_segmentation import Fusion, RgbThermalSegmentation
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training import checkpoint
from multimodal_perception.training.loop import Loop, LoopConfig, Losses
from multimodal_perception.training.precision import full_precision, mixed_precision
from multimodal_perception.training.real_images import read_images
from multimodal_perception.training.segmentation.dataset import (
    INPUT_WIDTH,
    Augmentation,
    Batch,
    CropDataset,
    View,
    collate,
    full_view,
    read_drives,
    real_view,
)
from multimodal_perception.training.segmentation.losses import (
    CLASSES,
    class_weights,
    distillation_loss,
    overlap_loss,
)
from multimodal_perception.training.segmentation.modality_dropout import (
    remove_modalities,
    with_modality_dropout,
)
from multimodal_perception.training.segmentation.robustness import (
    AdversarialConfig,
    MarginConfig,
    image_groups,
    margin_loss,
    network_inputs,
    select_samples,
    split_context_and_objects,
    with_attacked_samples,
)

INPUT_ROWS = 256
VALIDATION_DRIVES = 4


@dataclass(frozen=True)
class SegmentationTraining:
    """Training of the segmentation network.

    Attributes:
        fusion: Network that fuses the two images: cmx (Zhang et al. 2023) or ssma (Valada et al. 2020);
            visible and thermal have a single image as input. Change it to compare fusion methods.
        second_input: Modality of the second image, thermal or lidar (a depth image of the points). Use
            lidar for vehicles without a thermal camera.
        crop_size: Rows and columns of the training crops, multiples of 32. Decrease it when memory runs
            out.
        backbone_rate: Learning rate of the backbones as a fraction of the learning rate of the other
            layers. Decrease it when the ImageNet weights should change less; 0 keeps them.
        distillation: Weight of the distillation loss from the predictions with both images. Set it to 0
            to train with labels only.
        temperature: Temperature of the softmax of the distillation loss (Hinton et al. 2015). Increase
            it to weight unlikely classes more.
        single_modality_weight: Weight of the samples with one image, relative to those with both.
            Decrease it when both cameras are nearly always available.
        class_weight_exponent: Weight of a class in the loss is its pixel fraction to the power of minus
            this exponent. Increase it when rare classes are missed; they then get more false positives.
        initial_model: Name, card or folder of a trained segmentation model whose weights are the initial
            weights; empty for ImageNet weights. Set it to train a shipped model on your own data.
        train_thermal_backbone: Whether the backbone of the second image is trained. Set it to false to
            train on real visible images without changing how thermal images are processed.
        train_batch_statistics: Whether the statistics of batch normalisation are those of the training
            batches. Set it to false when the training starts from a trained model with small batches.
        validation_views: Largest number of views that are evaluated at every checkpoint. Decrease it on
            slow machines, where the evaluation takes long compared with the training.
        single_modality_fraction: Fraction of the samples from which one of the two images is removed. If
            it is 0, each sample occurs twice instead, with both images and with one of them. Set it to
            about 0.5 for shorter training with more different samples.
        train_first_layers: Whether the first layers of the visible backbone are trained, which otherwise
            keep their ImageNet weights. Set it to true for adversarial training, because attacks
            change the outputs of these layers.
        adversarial: Adversarial training, which makes the network resist small changes of the pixels.
            Set its fraction above 0 to use it.
        margins: Loss on the margin of the weaker of the two images. Set its weight above 0 when the
            network depends on one of the images.
        context_object_fraction: Fraction of the samples with both images in which one image shows only
            the context and the other only the objects. Increase it when an attack or a defect of one
            camera changes what both images show.
        augmentation: Random changes of the images and crops. Change them to match other cameras.
        loop: Length, speed and precision of the training. Set the number of steps here.
    """

    fusion: Fusion = "cmx"
    second_input: Literal["thermal", "lidar"] = "thermal"
    crop_size: tuple[int, int] = field(default=(160, 256), metadata={"unit": "px"})
    backbone_rate: float = field(default=1 / 3, metadata={"min": 0.0, "max": 1.0})
    distillation: float = field(default=0.3, metadata={"min": 0.0, "max": 100.0})
    temperature: float = field(default=2.0, metadata={"min": 0.1, "max": 100.0})
    single_modality_weight: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0})
    class_weight_exponent: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    initial_model: str = ""
    train_thermal_backbone: bool = True
    train_batch_statistics: bool = True
    validation_views: int = field(default=40, metadata={"min": 1, "max": 10_000})
    single_modality_fraction: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    train_first_layers: bool = False
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    margins: MarginConfig = field(default_factory=MarginConfig)
    context_object_fraction: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    augmentation: Augmentation = field(default_factory=Augmentation)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=1200, warmup=0.05, max_gradient_norm=5.0, ema_decay=0.99, workers=0
        )
    )

    def __post_init__(self) -> None:
        if any(side < 64 or side % 32 for side in self.crop_size):
            raise ValueError("crop_size: rows and columns must be multiples of 32, at least 64")
        if self.single_modality_fraction > 0 and self.distillation > 0:
            raise ValueError("distillation: must be 0 with single_modality_fraction above 0")
        if self.distillation > 0 and (
            self.adversarial.fraction > 0 or self.context_object_fraction > 0
        ):
            raise ValueError(
                "distillation: must be 0 with adversarial.fraction or context_object_fraction above 0, "
                "which change the images of the teacher"
            )
        if self.fusion in ("visible", "thermal") and (
            self.margins.weight > 0 or self.context_object_fraction > 0
        ):
            raise ValueError(
                f"margins.weight, context_object_fraction: must be 0 with fusion {self.fusion}, which "
                "has one image"
            )


def train_segmentation(
    config: SegmentationTraining,
    drives: Sequence[Path],
    out: Path,
    start: Path | None = None,
    backbones: Path | None = None,
    images: Path | None = None,
) -> RgbThermalSegmentation:
    """Train on drives written by render_drives, or resume the training in `out`.

    The last VALIDATION_DRIVES of the drives, at most half of them, are used for validation. start:
    initial weights. backbones: weights of a network with another fusion, to start from its backbones.
    images: folder of labelled real images, see training/real_images.py. Writes
    out/segmentation.safetensors. Returns the network with averaged weights. Raises UserError.
    """
    held_out = min(VALIDATION_DRIVES, len(drives) // 2)
    training = drives[: len(drives) - held_out]
    views, thermal_views = read_drives(training, config.second_input)
    validation = read_drives(drives[len(drives) - held_out :], config.second_input)[0]
    real = [] if images is None else read_images(images, DETECTOR_CLASSES)
    validation = validation[:: -(-len(validation) // config.validation_views) or 1]
    network = build_network(config, views)
    if start is None and not backbones and config.initial_model:
        start = Path(config.initial_model)
    if start is not None:
        checkpoint.load_weights(network, start)
    elif backbones is not None:
        load_backbones(network, backbones)
    crops = CropDataset(
        views,
        thermal_views if config.fusion != "visible" else [],
        config.crop_size,
        config.augmentation,
        config.loop.seed,
        [real_view(image) for image in real],
    )
    loop = Loop(
        network,
        crops,
        collate,
        config.loop,
        out,
        parameter_groups=parameter_groups(network, config),
    )
    weights = class_weights(views, config.class_weight_exponent).to(loop.device)

    def compute_losses(module: nn.Module, batch: Batch, rng: np.random.Generator) -> Losses:
        assert isinstance(module, RgbThermalSegmentation)
        return batch_losses(module, batch, config, weights, rng)

    def validate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, RgbThermalSegmentation)
        return mean_iou(module, validation)

    loop.run(compute_losses, validate if validation else None)
    if loop.rank == 0:
        checkpoint.save_weights(network, out / "segmentation.safetensors")
    return network


def build_network(config: SegmentationTraining, views: Sequence[View]) -> RgbThermalSegmentation:
    """The network with ImageNet weights before training; frozen parameters do not require gradients.

    The batch statistics of the second backbone are measured on the views.
    """
    torch.manual_seed(config.loop.seed)
    network = RgbThermalSegmentation(CLASSES, config.fusion, pretrained=True)
    if "1" in network.streams:
        _measure_batch_statistics(network.streams["1"], views)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    if "0" in network.streams:
        # The first layers of the visible backbone keep their ImageNet weights, which were trained on
        # photographs; the training images are rendered.
        visible = network.streams["0"]
        for part in (visible.stem, visible.stages[0]):  # type: ignore[index]
            part.requires_grad_(config.train_first_layers)
    if "1" in network.streams and not config.train_thermal_backbone:
        network.streams["1"].requires_grad_(False)
    if config.backbone_rate == 0:
        network.streams.requires_grad_(False)
    keep_depthwise_in_float32(network)
    return network


def parameter_groups(
    network: RgbThermalSegmentation, config: SegmentationTraining
) -> list[dict[str, Any]]:
    """Parameters of the backbones and of the other layers with their peak learning rates."""
    rate = config.loop.learning_rate
    backbones = list(network.streams.parameters())
    backbone_ids = {id(p) for p in backbones}
    others = [p for p in network.parameters() if id(p) not in backbone_ids]
    groups: list[dict[str, Any]] = [{"params": others, "lr": rate}]
    if config.backbone_rate > 0:
        groups.insert(0, {"params": backbones, "lr": rate * config.backbone_rate})
    return groups


def load_backbones(network: RgbThermalSegmentation, path: Path) -> None:
    """Load the backbones of a network with another fusion, and the matching parts of its decoder.

    With the same backbones, networks differ by their fusion only. Raises UserError for a file without
    one of the backbones.
    """
    given = checkpoint.read_weights(path)
    own = network.state_dict()
    matching = {
        name: tensor
        for name, tensor in given.items()
        if name.startswith(("streams.", "decoder."))
        and name in own
        and tensor.shape == own[name].shape
    }
    missing = [n for n in own if n.startswith("streams.") and n not in matching]
    if missing:
        raise UserError(
            f"{path}: {missing[0]} is missing: no backbones for fusion {network.fusion}"
        )
    network.load_state_dict(matching, strict=False)


def batch_losses(
    network: RgbThermalSegmentation,
    batch: Batch,
    config: SegmentationTraining,
    weights: Tensor,
    rng: np.random.Generator,
) -> Losses:
    """Losses of a batch. weights: (classes,) of the cross entropy."""
    for stream in network.streams.values():
        stream.eval()  # masked images would distort the batch statistics
    if not config.train_batch_statistics:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    both = config.fusion in ("cmx", "ssma")
    if both and config.single_modality_fraction > 0:
        batch = remove_modalities(batch, config.single_modality_fraction, rng)
        both = False
    elif both:
        batch = with_modality_dropout(batch, rng)
    if config.context_object_fraction > 0:
        batch = split_context_and_objects(batch, config.context_object_fraction, rng)
    if config.adversarial.fraction > 0:
        thermal = config.second_input == "thermal"
        batch = with_attacked_samples(network, batch, config.adversarial, weights, rng, thermal)
    if config.fusion in ("cmx", "ssma") and not both and not config.train_batch_statistics:
        batch, logits = _logits_by_modality(network, batch, weights.device)
    else:
        logits = network(*network_inputs(batch, weights.device))
    labels = batch.labels.to(weights.device)
    with full_precision(weights.device):
        logits = logits.float()
        upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
        # The first half of the batch has both images, the second half one of them.
        parts = (1.0, config.single_modality_weight) if both else (1.0,)
        losses = {"labels": logits.new_zeros(()), "overlap": logits.new_zeros(())}
        for part, truth, part_weight in zip(
            upsampled.chunk(len(parts)), labels.chunk(len(parts)), parts, strict=True
        ):
            fraction = part_weight / sum(parts)
            entropy = F.cross_entropy(part, truth, weights, ignore_index=IGNORED)
            losses["labels"] = losses["labels"] + fraction * entropy
            losses["overlap"] = losses["overlap"] + fraction * overlap_loss(part, truth)
        losses["total"] = losses["labels"] + 0.5 * losses["overlap"]
        if both and config.distillation > 0:
            losses["distillation"] = distillation_loss(logits, labels, config.temperature)
            losses["total"] = losses["total"] + config.distillation * losses["distillation"]
    if config.margins.weight > 0:
        losses["margin"] = margin_loss(network, batch, config.margins.target, weights.device)
        losses["total"] = losses["total"] + config.margins.weight * losses["margin"]
    return losses


def _logits_by_modality(
    network: RgbThermalSegmentation, batch: Batch, device: torch.device
) -> tuple[Batch, Tensor]:
    """The batch, ordered by the images that its samples have, and the logits.

    Samples with the same images are processed together, so that the backbone of a missing image is not
    computed. The result is the same because batch normalisation does not depend on the batch.
    """
    parts = [select_samples(batch, rows) for _, rows in image_groups(batch)]
    logits = torch.cat([network(*network_inputs(part, device)) for part in parts])
    ordered = Batch(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Batch)))
    return ordered, logits


@torch.no_grad()
def mean_iou(network: RgbThermalSegmentation, views: Sequence[View]) -> dict[str, float]:
    """mIoU of a network on full views: with both images, with the visible and with the thermal one."""
    from multimodal_perception.evaluation.segmentation import ConfusionMatrix

    cases = {"both": (1.0, 1.0), "visible": (1.0, 0.0), "thermal": (0.0, 1.0)}
    if network.fusion in ("visible", "thermal"):
        cases = {network.fusion: (1.0, 1.0)}
    device = next(network.parameters()).device
    scores = {}
    for name, (visible, thermal) in cases.items():
        confusion = ConfusionMatrix(SEGMENTATION_CLASSES)
        for view in views:
            batch = collate([full_view(view, INPUT_ROWS, INPUT_WIDTH)])
            a, b, mask_a, mask_b = network_inputs(batch, device)
            with mixed_precision(device.type):
                logits = network(a, b, mask_a * visible, mask_b * thermal)
            upsampled = F.interpolate(logits.float(), batch.labels.shape[-2:], mode="bilinear")
            confusion.add(batch.labels[0].numpy(), upsampled.argmax(1)[0].cpu().numpy())
        scores[f"miou_{name}"] = confusion.mean_iou
    return scores


@torch.no_grad()
def _measure_batch_statistics(backbone: nn.Module, views: Sequence[View]) -> None:
    """Replace the batch statistics of the second backbone, which come from photographs, by those of its
    own input images."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    momentums = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean of all batches
    backbone.train()
    selected = views[:: max(len(views) // 32, 1)][:32]
    for i in range(0, len(selected), 8):
        batch = collate([full_view(v, INPUT_ROWS, INPUT_WIDTH) for v in selected[i : i + 8]])
        backbone(torch.where(batch.thermal_mask > 0.5, 2.0 * batch.thermal - 1.0, 0.0))
    backbone.eval()
    for norm, momentum in zip(norms, momentums, strict=True):
        norm.momentum = momentum


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Exclude depthwise convolutions from autocast on the CPU.

    With oneDNN their gradients take more than twice as long in bfloat16 as in float32.
    """
    if torch.cuda.is_available():
        return

    before: list[bool] = []

    def leave_autocast(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        before.append(torch.is_autocast_enabled("cpu"))
        torch.set_autocast_enabled("cpu", False)
        return (inputs[0].float(),)

    def restore_autocast(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        torch.set_autocast_enabled("cpu", before.pop())

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.register_forward_pre_hook(leave_autocast)
            module.register_forward_hook(restore_autocast)
