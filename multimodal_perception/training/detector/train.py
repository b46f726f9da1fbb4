"""Training of the fusion detector: the proposal network, and the refinement network on its proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    DetectorConfig,
)
from multimodal_perception.networks.fusion_detector import (
    ProposalNetwork,
    RefinementNetwork,
)
from multimodal_perception.networks.image_encoder import ImageBackbone
from multimodal_perception.training.bev_fusion.augmentation import AugmentationConfig
from multimodal_perception.training.bev_fusion.class_balance import repeat_rare_classes
from multimodal_perception.training.bev_fusion.object_sampling import (
    MAX_PASTED,
    open_object_sampling,
)
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.checkpoint import (
    load_matching_weights,
    load_stream,
    load_weights,
    read_streams,
    save_weights,
)
from multimodal_perception.training.detector.available_sensors import DropoutConfig
from multimodal_perception.training.detector.dataset import (
    DETECTOR_LABELS,
    DetectorDataset,
    collate,
    store_features,
)
from multimodal_perception.training.detector.gradient_balancing import (
    GradientBalancer,
    GradientBalancingConfig,
)
from multimodal_perception.training.detector.losses import (
    Batch,
    loss_with_modalities,
    proposal_losses,
    refinement_losses,
)
from multimodal_perception.training.distributed import join_process_group, wait_for_all_ranks
from multimodal_perception.training.loop import Loop, LoopConfig, Losses


@dataclass(frozen=True)
class DetectorTraining:
    """Training of one stage of the fusion detector.

    Attributes:
        stage: Network that is trained: proposals is the first stage, refinement the second stage on the
            proposals of a trained first stage, large_vehicle_head only the part of the second stage
            that sets the length of large vehicles. Set it in each configuration file.
        network: Architecture of the detector. Use the same values in all stages of one detector.
        augmentation: Random changes of training frames. Increase them when the detector fails on other
            sensors than it was trained on.
        modality_dropout: Fractions of training frames with missing sensors. Increase them for robustness
            against failing sensors.
        loop: Length, speed and precision of the training. Set the number of steps here.
        segmentation_weight: Weight of the auxiliary segmentation task of the images in the stage
            proposals. Set it to 0 when the image necks are frozen.
        image_backbones: Weights of the image backbones in the stage proposals: imagenet, or the name or
            card of a segmentation model or detector. Change it to start from backbones of your own
            images.
        freeze_image_backbones: Keep the image backbones as they are and store their features beside the
            samples. Disable it to train the backbones as well; training is then much slower.
        repeat_threshold: Frames with a class that occurs in a smaller fraction of the frames than this
            are repeated (repeat factor sampling, Gupta et al. 2019). Increase it when rare classes are
            missed, set 0 for no repetition.
        gt_sampling: Number of objects by class that are pasted into each frame with a LiDAR
            (ground-truth sampling, Yan et al. 2018). Increase it for classes that are rare in the data.
        frozen_modules: Modules of the network that keep their initial weights and batch statistics. Use
            it to train new parts on a trained network.
        views_per_frame: Number of augmented versions of each frame in the stage large_vehicle_head,
            where loop.batch_size counts proposals. Increase it when there are few large vehicles.
        gradient_balancing: Balancing of gradients between tasks and modalities in the stage proposals.
            Enable it when one task or modality dominates the training.
    """

    stage: Literal["proposals", "refinement", "large_vehicle_head"] = "proposals"
    network: DetectorConfig = field(default_factory=DetectorConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    modality_dropout: DropoutConfig = field(default_factory=DropoutConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    segmentation_weight: float = field(default=0.5, metadata={"min": 0.0, "max": 100.0})
    image_backbones: str = "imagenet"
    freeze_image_backbones: bool = True
    repeat_threshold: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})
    gt_sampling: dict[str, int] = field(default_factory=dict)
    frozen_modules: tuple[str, ...] = ()
    views_per_frame: int = field(default=1, metadata={"min": 1, "max": 1000})
    gradient_balancing: GradientBalancingConfig = field(default_factory=GradientBalancingConfig)

    def __post_init__(self) -> None:
        balancing = self.gradient_balancing
        if balancing.any and self.stage != "proposals":
            raise ValueError("gradient_balancing: only available in the stage proposals")
        if (balancing.modalities or balancing.agm) and not self.network.global_fusion:
            raise ValueError("gradient_balancing: modalities and agm require network.global_fusion")
        for name, count in self.gt_sampling.items():
            if name not in CLASSES:
                raise ValueError(f"gt_sampling: allowed: {', '.join(CLASSES)}; got {name!r}")
            if not 0 <= count <= MAX_PASTED:
                raise ValueError(f"gt_sampling.{name}: allowed: 0 to {MAX_PASTED}; got {count}")


def train_proposals(
    config: DetectorTraining, data: Path, out: Path, start: Sequence[Path] = ()
) -> ProposalNetwork:
    """Train the proposal network on a folder of samples, or resume the training in `out`.

    start: initial weights (.safetensors or models); tensors that do not match are ignored, and of
    tensors in several files the last one counts. Writes out/proposals.safetensors. Raises UserError.
    """
    torch.manual_seed(config.loop.seed)
    network = ProposalNetwork(config.network, image_backbones=False)
    backbones = (
        load_image_backbones(config.image_backbones) if config.network.global_fusion else None
    )
    if backbones is not None and not config.freeze_image_backbones:
        network.camera_trunk, network.thermal_trunk = backbones
    frozen = load_initial_weights(network, config, start)
    balancer = None
    if config.gradient_balancing.any:
        balancer = GradientBalancer(config.gradient_balancing, modality_branches(network))
    frames = build_dataset(config, data, backbones)
    loop = Loop(network, frames, collate, config.loop, out, gradient_balancing=balancer)

    def compute_losses(module: nn.Module, batch: Batch, rng: np.random.Generator) -> Losses:
        frozen.eval()
        if balancer is not None and balancer.is_due(loop.step):
            balancer.measure(lambda names: loss_with_modalities(module, batch, names))
        return proposal_losses(module, batch, config.segmentation_weight, balancer)

    loop.run(compute_losses)
    if backbones is not None and config.freeze_image_backbones:
        network.camera_trunk, network.thermal_trunk = backbones
        network.to(loop.device)
    if loop.rank == 0:
        save_weights(network, out / "proposals.safetensors")
    return network


def train_refinement(
    config: DetectorTraining, data: Path, out: Path, proposals: Path, start: Sequence[Path] = ()
) -> RefinementNetwork:
    """Train the refinement network, or resume the training in `out`.

    proposals: weights of the trained proposal network, which is not changed. start: as in
    train_proposals. Writes out/refinement.safetensors. Raises UserError.
    """
    torch.manual_seed(config.loop.seed)
    proposal_network, backbones = load_proposal_network(config, proposals)
    frames = build_dataset(config, data, backbones)
    network = RefinementNetwork(config.network)
    frozen = load_initial_weights(network, config, start)
    loop = Loop(network, frames, collate, config.loop, out)
    proposal_network.to(loop.device)

    def compute_losses(module: nn.Module, batch: Batch, rng: np.random.Generator) -> Losses:
        frozen.eval()
        return refinement_losses(proposal_network, module, batch, rng)

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(network, out / "refinement.safetensors")
    return network


def load_proposal_network(
    config: DetectorTraining, weights: Path
) -> tuple[ProposalNetwork, tuple[ImageBackbone, ImageBackbone] | None]:
    """A trained proposal network without gradients, and its image backbones if it has images.

    With freeze_image_backbones the backbones are removed from the network, which then takes stored
    features.
    """
    network = ProposalNetwork(config.network)
    load_weights(network, weights)
    network.eval().requires_grad_(False)
    if not config.network.global_fusion:
        return network, None
    assert network.camera_trunk is not None and network.thermal_trunk is not None
    backbones = network.camera_trunk, network.thermal_trunk
    if config.freeze_image_backbones:
        network.camera_trunk = network.thermal_trunk = None
    return network, backbones


def load_initial_weights(
    network: nn.Module, config: DetectorTraining, start: Sequence[Path]
) -> nn.ModuleList:
    """Load the initial weights and freeze config.frozen_modules. Returns the frozen modules.

    Raises UserError for a frozen module that the network does not have.
    """
    for path in start:
        load_matching_weights(network, path)
    modules = dict(network.named_modules())
    unknown = [name for name in config.frozen_modules if name not in modules]
    if unknown:
        raise UserError(f"frozen_modules: {type(network).__name__} has no module {unknown[0]!r}")
    frozen = nn.ModuleList([modules[name] for name in config.frozen_modules])
    return frozen.requires_grad_(False)


def build_dataset(
    config: DetectorTraining, data: Path, backbones: tuple[ImageBackbone, ImageBackbone] | None
) -> DetectorDataset:
    """The training frames of a folder of samples.

    Features of frozen backbones are computed and stored beside the samples; each rank computes a part.
    """
    stored_features = backbones is not None and config.freeze_image_backbones
    paths = sample_paths(data)
    if backbones is not None and config.freeze_image_backbones:
        rank, world_size = join_process_group()
        store_features(paths[rank::world_size], *backbones)
        wait_for_all_ranks()
    sampling = open_object_sampling(paths, data, config.gt_sampling, CLASSES)
    if config.repeat_threshold:
        paths = repeat_rare_classes(
            paths, config.repeat_threshold, config.loop.seed, DETECTOR_LABELS
        )
    dropout = config.modality_dropout
    if backbones is None:
        # A network without images: no images in any frame, and a LiDAR in all.
        dropout = DropoutConfig(1.0, 0.0, 0.0, 0.0, config.modality_dropout.ultrasonics)
    return DetectorDataset(
        paths,
        config.network,
        config.augmentation,
        dropout,
        config.loop.seed,
        stored_features,
        sampling,
    )


def load_image_backbones(source: str) -> tuple[ImageBackbone, ImageBackbone]:
    """The camera and the thermal image backbone.

    source: imagenet, or the name or card of a segmentation model or detector. Raises UserError for a
    model without two image backbones.
    """
    backbones = ImageBackbone(3, source == "imagenet"), ImageBackbone(1, source == "imagenet")
    if source != "imagenet":
        for stream, backbone in zip(read_streams(source), backbones, strict=True):
            load_stream(backbone, stream, source)
    return backbones


def modality_branches(network: ProposalNetwork) -> dict[str, list[nn.Module]]:
    """The modules that only one modality passes through, before the features are fused."""
    parts = ("trunk", "neck", "fusion", "attention")
    modules = [getattr(network, f"{k}_{n}", None) for k in ("camera", "thermal") for n in parts]
    return {"lidar": [network.encoder], "images": [m for m in modules if m is not None]}
