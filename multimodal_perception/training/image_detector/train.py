"""Training of the image detector: everything behind the backbones, on their stored features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_perception.networks.rgb_thermal_detection import STRIDES, RgbirDetection
from multimodal_perception.training.checkpoint import (
    load_stream,
    load_weights,
    read_streams,
    save_weights,
)
from multimodal_perception.training.image_detector.dataset import (
    STREAMS,
    FeatureConfig,
    ImageDetectorData,
    Presence,
    stack,
    store_features,
)
from multimodal_perception.training.image_detector.targets import detection_losses
from multimodal_perception.training.loop import Loop, LoopConfig, Losses
from multimodal_perception.training.segmentation.train import keep_depthwise_in_float32


@dataclass(frozen=True)
class ImageDetectorTraining:
    """How the image detector is trained.

    backbones: a segmentation model (name or card) whose two streams they are, or imagenet. features:
    what is stored of each view; presence: missing images; loop: how long.
    """

    backbones: str = "segmentation"
    features: FeatureConfig = field(default_factory=FeatureConfig)
    presence: Presence = field(default_factory=Presence)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch=8, workers=0))


def begin(config: ImageDetectorTraining) -> RgbirDetection:
    """The network before training, its backbones in place and held."""
    torch.manual_seed(config.loop.seed)
    network = RgbirDetection(pretrained=config.backbones == "imagenet")
    if config.backbones != "imagenet":
        load_backbones(network, config.backbones)
    network.streams.requires_grad_(False)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    keep_depthwise_in_float32(network)
    return network


def load_backbones(network: RgbirDetection, model: str) -> None:
    """Take the streams of a segmentation model. Raises UserError for one that has not both."""
    for part, stream in zip(network.streams, read_streams(model), strict=True):
        load_stream(part, stream, model)


def train_image_detector(
    config: ImageDetectorTraining,
    drives: Sequence[Path],
    features: Path,
    out: Path,
    start: Path | None = None,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> RgbirDetection:
    """Store the features of drives (see render_drives) in a folder and train on them.

    Writes out/image_detector.safetensors; a run that was interrupted goes on. start: weights
    (.safetensors) to begin with.
    """
    network = begin(config)
    if start is not None:
        load_weights(network, start)
    paths = store_features(drives, network, config.features, features, config.loop.seed, progress)
    data = ImageDetectorData(paths, config.presence, config.loop.seed)
    loop = Loop(network, data, stack, config.loop, out)
    trained = loop.run(batch_losses)
    assert isinstance(trained, RgbirDetection)
    if loop.rank == 0:
        save_weights(trained, out / "image_detector.safetensors")
    return trained


def batch_losses(network: nn.Module, batch: dict[str, Tensor]) -> Losses:
    """Losses of a batch of stored examples."""
    assert isinstance(network, RgbirDetection)
    device = next(network.parameters()).device
    tensors: dict[str, Any] = {n: t.to(device, non_blocking=True) for n, t in batch.items()}
    layout = torch.channels_last
    features = [
        [tensors[f"{name}{s}"].contiguous(memory_format=layout) for s in STRIDES]
        for name in STREAMS
    ]
    logits, boxes = network.found(features, [tensors[f"{name}_mask"] for name in STREAMS])
    return detection_losses(logits, boxes, tensors["kinds"], tensors["targets"])
