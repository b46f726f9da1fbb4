"""Stages lidar and fusion: the first stage of the detector, without and with images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.network_config import CLASSES
from multimodal_perception.networks.bev_fusion import BevFusionNetwork, BevOutputs
from multimodal_perception.networks.bev_fusion_images import ImageEncoder
from multimodal_perception.training.bev_fusion.class_balance import repeat_rare_classes
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.dataset import (
    Batch,
    BevFusionDataset,
    FrameOptions,
    collate_stage1,
)
from multimodal_perception.training.bev_fusion.frame_scene import DETECTOR_LABELS
from multimodal_perception.training.bev_fusion.image_features import store_features
from multimodal_perception.training.bev_fusion.losses import (
    FEATURE_DISTILLATION_WEIGHT,
    HEAT_DISTILLATION_WEIGHT,
    distillation_losses,
    stage1_losses,
    visible_cells,
)
from multimodal_perception.training.bev_fusion.object_sampling import open_object_sampling
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.bev_fusion.samples import has_lidar
from multimodal_perception.training.bev_fusion.stage_weights import WEIGHTS, load_encoders
from multimodal_perception.training.checkpoint import load_matching_weights, save_weights
from multimodal_perception.training.distributed import join_process_group, wait_for_all_ranks
from multimodal_perception.training.loop import Loop, Losses


def train_stage1(
    config: BevFusionTraining, data: Path, out: Path, start: Sequence[Path] = ()
) -> BevFusionNetwork:
    """Train the first stage on a folder of samples, or resume the training in `out`.

    start: weights of earlier stages: in the stage fusion those of the image networks, and those of a
    first stage as initial weights. Raises UserError.
    """
    torch.manual_seed(config.loop.seed)
    # With channels last, convolutions of oneDNN need no reordering: a step takes a fifth less time.
    network = BevFusionNetwork(config.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for path in start:
        if path.name == WEIGHTS["lidar"]:
            load_matching_weights(network, path)
    encoders = load_encoders(config.network, start) if config.stage == "fusion" else None
    frames = open_frames(config, data, encoders)
    loop = Loop(network, frames, collate_stage1, config.loop, out)

    def compute_losses(module: nn.Module, batch: Batch, rng: np.random.Generator) -> Losses:
        return batch_losses(module, batch, config.distillation)

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(network, out / WEIGHTS[config.stage])
    return network


def open_frames(
    config: BevFusionTraining, data: Path, encoders: dict[str, ImageEncoder] | None
) -> BevFusionDataset:
    """The training frames of a folder of samples.

    encoders: frozen image networks, whose outputs are computed and stored beside the samples; each rank
    computes a part. None for frames without images.
    """
    paths = sample_paths(data)
    if encoders is None:
        paths = [path for path in paths if has_lidar(path)]
        if not paths:
            raise UserError(f"{data}: no sample has a LiDAR")
    else:
        rank, world_size = join_process_group()
        store_features(paths[rank::world_size], encoders, config.network, config.loop.precision)
        wait_for_all_ranks()
    sampling = open_object_sampling(paths, data, config.gt_sampling, CLASSES)
    if config.repeat_threshold:
        paths = repeat_rare_classes(
            paths, config.repeat_threshold, config.loop.seed, DETECTOR_LABELS
        )
    options = FrameOptions(
        config.augmentation,
        config.sensor_dropout,
        config.painting,
        images=encoders is not None,
        sampling=sampling,
        teacher=config.stage == "fusion" and config.distillation > 0,
    )
    return BevFusionDataset(paths, config.network, options, config.loop.seed)


def batch_losses(network: nn.Module, batch: Batch, distillation: float) -> Losses:
    """Losses of the first stage on a batch. distillation: weight of the teacher's losses."""
    assert isinstance(network, BevFusionNetwork)
    device = next(network.parameters()).device
    tensors, teacher = (to_device(part, device) for part in batch[:2])
    rows_with_lidar = torch.tensor([frame.has_lidar for frame in batch[2]], device=device)
    outputs = bev_outputs(network, tensors, rows_with_lidar)
    losses = stage1_losses(outputs, tensors, network.config.lift_cell)
    rows = teacher.pop("rows")
    if distillation and len(rows):
        training = network.training
        network.eval()  # the statistics of the teacher's frames are not those of the student's
        with torch.no_grad():
            complete = network.bev_outputs(teacher)
        network.train(training)
        visible = None
        if "image_bev" in tensors:
            visible = visible_cells(tensors["image_bev"][rows], network.config)
        more = distillation_losses(outputs, complete, rows, visible)
        losses["total"] = losses["total"] + distillation * (
            HEAT_DISTILLATION_WEIGHT * more["heat_teacher"]
            + FEATURE_DISTILLATION_WEIGHT * more["feature_teacher"]
        )
        losses |= more
    return losses


def bev_outputs(
    network: BevFusionNetwork, tensors: dict[str, Tensor], with_lidar: Tensor
) -> BevOutputs:
    """Outputs of the first stage in training. with_lidar: (B,) bool, frames with LiDAR.

    Batch normalisation uses the statistics of the frames with LiDAR, and only these change its running
    statistics. Frames without LiDAR, whose canvas is empty, are normalised with the running statistics,
    as on the vehicle. With common statistics, those of a frame would depend on how many of the others
    have a LiDAR, and neither kind would be processed as on the vehicle.
    """
    if bool(with_lidar.all()) or not network.training:
        return network.bev_outputs(tensors)
    parts, order = [], []
    inputs = {n: t for n, t in tensors.items() if n in network.inputs}
    for selected, training in ((with_lidar, True), (~with_lidar, False)):
        rows = selected.nonzero()[:, 0]
        if len(rows):
            network.train(training)
            parts.append(network.bev_outputs({n: t[rows] for n, t in inputs.items()}))
            order.append(rows)
    network.train()
    inverse = torch.cat(order).argsort()
    return BevOutputs(*(torch.cat(values)[inverse] for values in zip(*parts, strict=True)))


def to_device(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a batch on a device."""
    return {n: t.to(device, non_blocking=True) for n, t in tensors.items()}
