"""Training of the image detector on the stored features of its frozen backbones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.networks.rgb_thermal_detection import (
    CLASSES,
    STRIDES,
    RgbThermalDetection,
)
from multimodal_perception.training.checkpoint import (
    load_stream,
    load_weights,
    read_streams,
    read_weights,
    save_weights,
)
from multimodal_perception.training.distributed import join_process_group, wait_for_all_ranks
from multimodal_perception.training.image_detector.dataset import (
    STREAMS,
    FeatureConfig,
    ImageDetectorData,
    ModalityFractions,
    collate_features,
    store_features,
)
from multimodal_perception.training.image_detector.targets import detection_losses
from multimodal_perception.training.loop import Loop, LoopConfig, Losses
from multimodal_perception.training.real_images import read_images
from multimodal_perception.training.segmentation.train import keep_depthwise_in_float32


@dataclass(frozen=True)
class ImageDetectorTraining:
    """Training of the image detector.

    Attributes:
        backbones: Weights of the two backbones, which are not trained: the name or card of a
            segmentation model, or imagenet. Use the model that runs beside the detector.
        initial_model: Name, card or folder of a trained image detector whose weights are the initial
            weights, except for the backbones; empty for random weights. Set it to train a shipped model
            on your own data.
        features: Crops of the training images whose features are stored. Change them to vary the
            training data more.
        modality_fractions: Fractions of the samples with both images or one of them. Change them when
            one camera is often missing.
        loop: Length, speed and precision of the training. Set the number of steps here.
    """

    backbones: str = "segmentation"
    initial_model: str = ""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    modality_fractions: ModalityFractions = field(default_factory=ModalityFractions)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=8, workers=0))


def build_network(config: ImageDetectorTraining) -> RgbThermalDetection:
    """The network before training, with frozen backbones. Raises UserError."""
    torch.manual_seed(config.loop.seed)
    network = RgbThermalDetection(pretrained=config.backbones == "imagenet")
    if config.backbones != "imagenet":
        load_backbones(network, config.backbones)
    network.streams.requires_grad_(False)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    keep_depthwise_in_float32(network)
    return network


def load_backbones(network: RgbThermalDetection, model: str) -> None:
    """Load the backbones of a segmentation model. Raises UserError for a model without both."""
    for part, stream in zip(network.streams, read_streams(model), strict=True):
        load_stream(part, stream, model)


def load_other_layers(network: RgbThermalDetection, model: Path) -> None:
    """Load all layers of a trained image detector but its backbones. Raises UserError."""
    weights = {n: t for n, t in read_weights(model).items() if not n.startswith("streams.")}
    own = network.state_dict()
    for name, value in own.items():
        if name.startswith("streams."):
            continue
        if name not in weights or weights[name].shape != value.shape:
            raise UserError(
                f"{model}: {name} is missing or has another shape: not an image detector"
            )
    network.load_state_dict(weights, strict=False)


def train_image_detector(
    config: ImageDetectorTraining,
    drives: Sequence[Path],
    features: Path,
    out: Path,
    start: Path | None = None,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    images: Path | None = None,
) -> RgbThermalDetection:
    """Store the features of drives (see render_drives) in a folder and train on them, or resume the
    training in `out`.

    start: initial weights (.safetensors or a model). images: folder of labelled real images. Writes
    out/image_detector.safetensors. Returns the network with averaged weights. Raises UserError.
    """
    real = [] if images is None else read_images(images, CLASSES)
    network = build_network(config)
    if start is not None:
        load_weights(network, start)
    elif config.initial_model:
        load_other_layers(network, Path(config.initial_model))
    rank, world_size = join_process_group()
    # Each rank stores the features of a part of the drives.
    own = drives[rank::world_size]
    store_features(own, network, config.features, features, config.loop.seed, progress)
    wait_for_all_ranks()
    paths = store_features(
        drives, network, config.features, features, config.loop.seed, images=real
    )
    data = ImageDetectorData(paths, config.modality_fractions, config.loop.seed)
    loop = Loop(network, data, collate_features, config.loop, out)

    def compute_losses(
        module: nn.Module, batch: dict[str, Tensor], rng: np.random.Generator
    ) -> Losses:
        return batch_losses(module, batch)

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(network, out / "image_detector.safetensors")
    return network


def batch_losses(network: nn.Module, batch: dict[str, Tensor]) -> Losses:
    """Losses of a batch of stored features."""
    assert isinstance(network, RgbThermalDetection)
    device = next(network.parameters()).device
    tensors: dict[str, Any] = {n: t.to(device, non_blocking=True) for n, t in batch.items()}
    layout = torch.channels_last
    features = [
        [tensors[f"{name}{s}"].contiguous(memory_format=layout) for s in STRIDES]
        for name in STREAMS
    ]
    logits, boxes = network.detect(features, [tensors[f"{name}_mask"] for name in STREAMS])
    return detection_losses(logits, boxes, tensors["target_labels"], tensors["target_boxes"])
