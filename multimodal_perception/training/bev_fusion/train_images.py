"""Stage image_encoder: the image networks, on rendered images with true ranges and objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.network_config import (
    IMAGE_MODALITIES,
    BevFusionNetworkConfig,
)
from multimodal_perception.networks.bev_fusion_images import ImageEncoder
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.image_dataset import (
    OBJECT_PROPERTIES,
    ImageBatch,
    ImageDataset,
    collate_images,
    segment_cells,
)
from multimodal_perception.training.bev_fusion.losses import range_loss, segment_loss
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.bev_fusion.samples import SEGMENT_NAMES
from multimodal_perception.training.bev_fusion.stage_weights import encoder_file
from multimodal_perception.training.checkpoint import save_weights
from multimodal_perception.training.loop import Loop, Losses
from multimodal_perception.training.segmentation.train import keep_depthwise_in_float32

# Learning rate of the ImageNet trunk relative to that of the new layers.
TRUNK_LEARNING_RATE = 0.3
SEGMENT_WEIGHT, FINE_SEGMENT_WEIGHT, PROPERTY_WEIGHT = 0.5, 0.25, 0.5


class ImageEncoders(nn.Module):
    """The image networks of both modalities, with heads that only serve the training.

    fine_segment: segments at stride 4 from the features. properties: of the objects, see image_dataset.
    """

    def __init__(self, config: BevFusionNetworkConfig, pretrained: bool = True) -> None:
        super().__init__()
        channels = {"camera": 3, "thermal": 1}
        self.encoders = nn.ModuleDict(
            {m: ImageEncoder(config, channels[m], pretrained) for m in IMAGE_MODALITIES}
        )
        self.fine_segment = nn.ModuleDict(
            {m: nn.Conv2d(config.channels, len(SEGMENT_NAMES), 1) for m in IMAGE_MODALITIES}
        )
        self.properties = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.AvgPool2d(2),
                    nn.Conv2d(config.channels, 64, 1),
                    nn.ReLU(),
                    nn.Conv2d(64, OBJECT_PROPERTIES, 1),
                )
                for m in IMAGE_MODALITIES
            }
        )

    def losses(self, modality: str, batch: dict[str, Tensor]) -> Losses:
        """Losses of the images of one modality."""
        encoder = self.encoders[modality]
        assert isinstance(encoder, ImageEncoder)
        outputs = encoder.outputs(batch["pixels"], batch["ray_features"])
        properties = self.properties[modality](outputs.features).float()
        error = F.smooth_l1_loss(properties, batch["properties"], beta=0.1, reduction="none")
        known = batch["has_object"]
        losses = {
            "range": range_loss(outputs.range_logits, batch["bins"]),
            "segment": segment_loss(outputs.segment_logits, segment_cells(batch["segments"])),
            "fine_segment": segment_loss(
                self.fine_segment[modality](outputs.features), batch["segments"]
            ),
            "properties": (error.mean(1) * known).sum() / known.sum().clamp(min=1.0),
        }
        losses["total"] = (
            losses["range"]
            + SEGMENT_WEIGHT * losses["segment"]
            + FINE_SEGMENT_WEIGHT * losses["fine_segment"]
            + PROPERTY_WEIGHT * losses["properties"]
        )
        return losses


def image_losses(network: nn.Module, batch: ImageBatch) -> Losses:
    """Losses of a batch: means over the modalities, weighted with their numbers of images."""
    assert isinstance(network, ImageEncoders)
    device = next(network.parameters()).device
    losses: Losses = {}
    count = sum(len(part["pixels"]) for part in batch.values())
    for modality, part in batch.items():
        tensors = {n: t.to(device, non_blocking=True) for n, t in part.items()}
        own = network.losses(modality, tensors)
        share = len(part["pixels"]) / count
        losses |= {f"{modality}_{n}": v for n, v in own.items() if n != "total"}
        losses["total"] = losses.get("total", own["total"].new_zeros(())) + share * own["total"]
    return losses


def train_image_encoders(config: BevFusionTraining, data: Path, out: Path) -> ImageEncoders:
    """Train the image networks on a folder of samples, or resume the training in `out`.

    Writes the weights of both networks, see encoder_file. Raises UserError.
    """
    torch.manual_seed(config.loop.seed)
    network = ImageEncoders(config.network, config.pretrained)
    images = ImageDataset(
        sample_paths(data), config.network, config.image_augmentation, config.loop.seed
    )
    keep_depthwise_in_float32(network)
    trunk = [p for n, p in network.named_parameters() if ".trunk." in n]
    rest = [p for n, p in network.named_parameters() if ".trunk." not in n]
    rate = config.loop.learning_rate
    groups = [{"params": trunk, "lr": TRUNK_LEARNING_RATE * rate}, {"params": rest, "lr": rate}]
    loop = Loop(
        network,
        images,
        collate_images,
        config.loop,
        out,
        parameter_groups=groups,
    )

    def compute_losses(module: nn.Module, batch: ImageBatch, rng: np.random.Generator) -> Losses:
        return image_losses(module, batch)

    loop.run(compute_losses)
    if loop.rank == 0:
        for modality, encoder in network.encoders.items():
            save_weights(encoder, out / encoder_file(modality))
    return network
