"""Training of the fusion detector: first the proposal network, then the refinement on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
from multimodal_perception.networks.image_encoder import ImageTrunk
from multimodal_perception.training.checkpoint import (
    begin_from,
    load_stream,
    load_weights,
    read_streams,
    save_weights,
)
from multimodal_perception.training.detector.augmentation import AugmentationConfig, DropoutConfig
from multimodal_perception.training.detector.dataset import (
    DetectorData,
    collate,
    repeated,
    store_features,
)
from multimodal_perception.training.detector.gradient_balancing import (
    CalibrationConfig,
    GradientCalibration,
)
from multimodal_perception.training.detector.losses import (
    Batch,
    masked_loss,
    proposal_losses,
    refinement_losses,
)
from multimodal_perception.training.detector.object_sampling import MOST_PASTED, sampling_of
from multimodal_perception.training.detector.samples import sample_paths
from multimodal_perception.training.loop import Loop, LoopConfig, Losses, join, wait_for_all


@dataclass(frozen=True)
class DetectorTraining:
    """One stage of training.

    stage: which network; measures: RefinementHead.measured alone. network: sizes and switches. data:
    augmentation; dropout: missing sensors. loop: how long. segment_weight: of the images' auxiliary
    task. trunks: where the proposal network's image trunks come from, imagenet or a segmentation model
    or detector (name or card). frozen_trunks: they stay so and their features are stored beside the
    samples. repeat: share of frames that every class is wanted in; frames with rarer ones are repeated.
    sampled: so many objects of each class are pasted into every frame with a LiDAR, see
    ground_truth_sampling. frozen: modules of the network that stay as they were begun with, their batch
    norm too. looks: times that each frame is seen in the stage measures, where loop.batch counts
    proposals. calibration: of the gradients of tasks and modalities, in the stage proposals.
    """

    stage: Literal["proposals", "refinement", "measures"] = "proposals"
    network: DetectorConfig = field(default_factory=DetectorConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    segment_weight: float = field(default=0.5, metadata={"min": 0.0, "max": 100.0})
    trunks: str = "imagenet"
    frozen_trunks: bool = True
    repeat: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})
    sampled: dict[str, int] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    looks: int = field(default=1, metadata={"min": 1, "max": 1000})
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)

    def __post_init__(self) -> None:
        if self.calibration.any and self.stage != "proposals":
            raise ValueError("calibration: of the stage proposals alone")
        if (self.calibration.intra or self.calibration.modulation) and not (
            self.network.global_fusion
        ):
            raise ValueError("calibration: intra and modulation need global_fusion")
        for name, count in self.sampled.items():
            if name not in CLASSES:
                raise ValueError(f"sampled: allowed: {', '.join(CLASSES)}; got {name!r}")
            if not 0 <= count <= MOST_PASTED:
                raise ValueError(f"sampled.{name}: allowed: 0 to {MOST_PASTED}; got {count}")


def train_proposals(
    config: DetectorTraining, data: Path, out: Path, start: Sequence[Path] = ()
) -> ProposalNetwork:
    """Train the proposal network. start: weights (.safetensors) to begin from, as far as they fit; of
    what several have, the last one's."""
    torch.manual_seed(config.loop.seed)
    network = ProposalNetwork(config.network, trunks=False)
    trunks = trunks_of(config.trunks) if config.network.global_fusion else None
    if trunks is not None and not config.frozen_trunks:
        network.camera_trunk, network.thermal_trunk = trunks
    frozen = begin(network, config, start)
    calibration = None
    if config.calibration.any:
        calibration = GradientCalibration(config.calibration, branches_of(network))
    frames = frames_of(config, data, trunks)
    loop = Loop(network, frames, collate, config.loop, out, calibration)

    def losses_of(module: nn.Module, batch: Batch) -> Losses:
        frozen.eval()
        if calibration is not None and calibration.due(loop.step):
            calibration.measure(lambda names: masked_loss(module, batch, names))
        return proposal_losses(module, batch, config.segment_weight, calibration)

    trained = loop.run(losses_of)
    assert isinstance(trained, ProposalNetwork)
    if trunks is not None and config.frozen_trunks:
        trained.camera_trunk, trained.thermal_trunk = trunks
        trained.to(loop.device)
    if loop.rank == 0:
        save_weights(trained, out / "proposals.safetensors")
    return trained


def train_refinement(
    config: DetectorTraining, data: Path, out: Path, proposals: Path, start: Sequence[Path] = ()
) -> RefinementNetwork:
    """Train the refinement on a trained proposal network (.safetensors), which stays as it is, its image
    trunks too. start: as train_proposals has it."""
    torch.manual_seed(config.loop.seed)
    first, trunks = read_proposals(config, proposals)
    frames = frames_of(config, data, trunks)
    network = RefinementNetwork(config.network)
    frozen = begin(network, config, start)
    loop = Loop(network, frames, collate, config.loop, out)
    first.to(loop.device)

    def losses_of(module: nn.Module, batch: Batch) -> Losses:
        frozen.eval()
        return refinement_losses(first, module, batch)

    trained = loop.run(losses_of)
    assert isinstance(trained, RefinementNetwork)
    if loop.rank == 0:
        save_weights(trained, out / "refinement.safetensors")
    return trained


def read_proposals(
    config: DetectorTraining, weights: Path
) -> tuple[ProposalNetwork, tuple[ImageTrunk, ImageTrunk] | None]:
    """A trained proposal network, which stays as it is, and its image trunks, if it has any; not in it
    where they are frozen and their features stored."""
    first = ProposalNetwork(config.network)
    load_weights(first, weights)
    first.eval().requires_grad_(False)
    if not config.network.global_fusion:
        return first, None
    assert first.camera_trunk is not None and first.thermal_trunk is not None
    trunks = first.camera_trunk, first.thermal_trunk
    if config.frozen_trunks:
        first.camera_trunk = first.thermal_trunk = None
    return first, trunks


def begin(network: nn.Module, config: DetectorTraining, start: Sequence[Path]) -> nn.ModuleList:
    """Give a network the weights that it begins with. Returns its modules that are not to be trained.

    Raises UserError for a module to freeze that the network has not.
    """
    for path in start:
        begin_from(network, path)
    modules = dict(network.named_modules())
    unknown = [name for name in config.frozen if name not in modules]
    if unknown:
        raise UserError(f"frozen: {type(network).__name__} has no module {unknown[0]!r}")
    frozen = nn.ModuleList([modules[name] for name in config.frozen])
    return frozen.requires_grad_(False)


def frames_of(
    config: DetectorTraining, data: Path, trunks: tuple[ImageTrunk, ImageTrunk] | None
) -> DetectorData:
    """The training frames of a folder of samples, with the trunks' features where they are frozen."""
    stored = trunks is not None and config.frozen_trunks
    paths = sample_paths(data)
    if trunks is not None and config.frozen_trunks:
        rank, ranks = join()
        store_features(paths[rank::ranks], *trunks)
        wait_for_all()
    sampling = sampling_of(paths, data, config.sampled)
    if config.repeat:
        paths = repeated(paths, config.repeat, config.loop.seed)
    return DetectorData(
        paths,
        config.network,
        config.augmentation,
        config.dropout
        if trunks is not None
        else DropoutConfig(1.0, 0.0, 0.0, 0.0, config.dropout.ultrasonics),
        config.loop.seed,
        stored,
        sampling,
    )


def trunks_of(source: str) -> tuple[ImageTrunk, ImageTrunk]:
    """The cameras' and the thermal trunk: of ImageNet, or of a segmentation model or another detector.

    Raises UserError for a model that has no such streams.
    """
    trunks = ImageTrunk(3, source == "imagenet"), ImageTrunk(1, source == "imagenet")
    if source != "imagenet":
        for stream, trunk in zip(read_streams(source), trunks, strict=True):
            load_stream(trunk, stream, source)
    return trunks


def branches_of(network: ProposalNetwork) -> dict[str, list[nn.Module]]:
    """The modules of each modality before they meet."""
    images = ("trunk", "neck", "fusion", "exchange")
    own = [getattr(network, f"{k}_{n}", None) for k in ("camera", "thermal") for n in images]
    return {"lidar": [network.encoder], "images": [m for m in own if m is not None]}
