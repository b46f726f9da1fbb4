"""Training of the fusion detector: first the proposal network, then the refinement on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.geometry.boxes import iou_3d, non_maximum_suppression
from multimodal_perception.networks.detector_config import CLASSES, IMAGE_KINDS, DetectorConfig
from multimodal_perception.networks.fusion_detector import (
    Images,
    ProposalNetwork,
    RefinementNetwork,
)
from multimodal_perception.networks.image_encoder import ImageTrunk, atlas_of
from multimodal_perception.networks.local_fusion import Refined, refined_boxes
from multimodal_perception.preprocess.detector_inputs import CELL_PIXELS, refinement_inputs
from multimodal_perception.preprocess.pillars import RANGE
from multimodal_perception.preprocess.proposals import PointIndex
from multimodal_perception.training.augmentation import AugmentationConfig, DropoutConfig
from multimodal_perception.training.checkpoint import (
    begin_from,
    load_stream,
    load_weights,
    read_streams,
    save_weights,
)
from multimodal_perception.training.detector_data import (
    SCALES,
    DetectorData,
    Item,
    collate,
    repeated,
    store_features,
)
from multimodal_perception.training.gradient_calibration import (
    CalibrationConfig,
    GradientCalibration,
)
from multimodal_perception.training.ground_truth_sampling import MOST_PASTED, sampling_of
from multimodal_perception.training.loop import Loop, LoopConfig, Losses, join, wait_for_all
from multimodal_perception.training.samples import sample_paths
from multimodal_perception.training.targets import (
    code_loss,
    confidence_loss,
    ends_loss,
    heat_loss,
    residual_loss,
    segment_loss,
    soft_target,
)

Batch = tuple[dict[str, Tensor], Sequence[Item]]
# Of the proposals of a training frame, so many are refined, half of them on an object if there are.
REFINED = 32
# A proposal is refined to the label that it overlaps so much (IoU in 3D), or that so much of it lies in
# while it overlaps a little: of a bus seen from behind, the end alone is proposed.
MATCHED = 0.3
WITHIN, LITTLE = 0.6, 0.1
SUPPRESSED = 0.7


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
        network.camera_trunk, network.infrared_trunk = trunks
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
        trained.camera_trunk, trained.infrared_trunk = trunks
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
    assert first.camera_trunk is not None and first.infrared_trunk is not None
    trunks = first.camera_trunk, first.infrared_trunk
    if config.frozen_trunks:
        first.camera_trunk = first.infrared_trunk = None
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
    own = [getattr(network, f"{k}_{n}", None) for k in ("camera", "infrared") for n in images]
    return {"lidar": [network.encoder], "images": [m for m in own if m is not None]}


def masked_loss(network: nn.Module, batch: Batch, modalities: frozenset[str]) -> Tensor:
    """The loss of the boxes when only these of branches_of are there. Pillars without LiDAR are as
    preprocess.pillars makes them where only images tell: their place is known, nothing is in them."""
    tensors = dict(batch[0])
    if "lidar" not in modalities:
        empty = torch.zeros_like(tensors["pillars"])
        empty[..., RANGE] = tensors["pillars"][..., RANGE]
        tensors["pillars"] = empty
    if "images" not in modalities:
        for name in ("camera_seen", "infrared_seen"):
            tensors[name] = torch.zeros_like(tensors[name])
    # Batch norm must not count these passes.
    network.eval()
    losses = proposal_losses(network, (tensors, batch[1]), 0.0)
    network.train()
    return losses["total"]


def proposal_losses(
    network: nn.Module,
    batch: Batch,
    segment_weight: float,
    calibration: GradientCalibration | None = None,
) -> Losses:
    """Losses of the proposal network on a batch."""
    tensors = _placed(_device_of(network), batch[0])
    assert isinstance(network, ProposalNetwork)
    atlases, segments = image_atlases(network, tensors)
    _, heat, code = network.maps(**map_inputs(tensors, atlases))
    weights = tensors["weights"] * tensors["counts"][:, None]
    losses = {
        "heat": heat_loss(heat, tensors["heat"], tensors["counts"]),
        "box": code_loss(code, tensors["centres"], tensors["codes"], weights),
    }
    losses["total"] = losses["heat"] + 0.5 * losses["box"]
    if calibration is not None:
        tasks = {"heat": losses["heat"], "box": 0.5 * losses["box"]}
        shared = network.head.shared[0].weight
        assert isinstance(shared, Tensor)
        losses["total"] = calibration.total(tasks, shared)
    if segments is not None:
        losses["segments"] = segments
        losses["total"] = losses["total"] + segment_weight * segments
    return losses


def map_inputs(tensors: dict[str, Tensor], atlases: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """What ProposalNetwork.maps takes, of a batch."""
    inputs: dict[str, Any] = {n: tensors[n] for n in ("pillars", "cells", "ultrasonic")}
    for kind, atlas in zip(IMAGE_KINDS, atlases or (), strict=bool(atlases)):
        places, seen = tensors[f"{kind}_places"], tensors[f"{kind}_seen"]
        inputs[kind] = Images(atlas, places, seen, tensors.get(f"{kind}_rays"))
    return inputs


def image_atlases(
    network: ProposalNetwork, tensors: dict[str, Tensor]
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """Atlases of a batch, and the auxiliary loss. Images that are missing do not enter the neck, so
    that batch norm never counts them."""
    if not network.config.global_fusion:
        return None, None
    atlases, loss = [], tensors["pillars"].new_zeros(())
    for kind, neck, trunk in (
        ("camera", network.camera_neck, network.camera_trunk),
        ("infrared", network.infrared_neck, network.infrared_trunk),
    ):
        present = tensors[f"{kind}_present"]
        batch, count = present.shape
        segments = tensors[f"{kind}_segments"]
        assert neck is not None
        maps = None
        if bool(present.any()):
            if trunk is None:
                scales = [tensors[f"{kind}_{s}"][present].float() for s in SCALES]
            else:
                scales = trunk(tensors[f"{kind}_pixels"][present])
            found = neck(*scales)
            loss = loss + segment_loss(neck.segment(found), segments[present])
            maps = found.new_zeros(batch, count, *found.shape[1:])
            maps[present] = found
        else:
            channels, (h, w) = network.config.channels, segments.shape[-2:]
            maps = tensors["pillars"].new_zeros(batch, count, channels, 2 * h, 2 * w)
        atlases.append(atlas_of(maps.flatten(0, 1), batch))
    return (atlases[0], atlases[1]), loss


Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (N, 7), scores (N,), labels (N,)
Guess = Callable[[Item, Found, np.random.Generator], Found]


@dataclass(frozen=True)
class Choice:
    """Which proposals of a training frame are refined.

    count: so many. suppressed: those that overlap more from above (IoU) are one. guess: what to choose
    from beside the network's own.
    """

    count: int = REFINED
    suppressed: float = SUPPRESSED
    guess: Guess | None = None


@dataclass(frozen=True)
class Refinable:
    """Proposals of a batch as the refinement takes them, and what it should make of them.

    maps: BEV map and atlases. proposals: (B, R, 7). said: the other inputs by the refinement's names.
    matched: (B, R, 7) labels, proposals where there is none; kinds: (B, R), their classes from 0; found:
    (B, R), 1 where there is one; judged: (B, R), see `judged`. items: the frames.
    """

    maps: tuple[Tensor, tuple[Tensor, Tensor]]
    proposals: Tensor
    said: dict[str, Tensor]
    matched: Tensor
    kinds: Tensor
    found: Tensor
    judged: Tensor
    items: Sequence[Item]

    def confidences(self, residuals: Tensor) -> Tensor:
        """What the confidences (B, R, classes) of boxes refined by residuals (B, R, 8) should be."""
        refined = refined_boxes(self.proposals, residuals.detach().float()).cpu().numpy()
        right = [
            confidences(b, i.boxes, i.labels) for b, i in zip(refined, self.items, strict=True)
        ]
        return _stack(right, self.proposals)


def refinable(
    first: ProposalNetwork, device: torch.device, batch: Batch, choice: Choice = Choice()
) -> Refinable:
    """What the refinement is trained on: proposals of the first network for a batch."""
    tensors, items = _placed(device, batch[0]), batch[1]
    rng = np.random.default_rng(torch.initial_seed())  # the loop seeds each step
    with torch.no_grad():
        atlases, _ = image_atlases(first, tensors)
        bev, heat, code = first.maps(**map_inputs(tensors, atlases))
        scores, labels, boxes = (
            v.float().cpu().numpy() for v in first.proposals(heat.float(), code.float())
        )
    if atlases is None:
        atlases = _no_atlases(first.config, bev)
    inputs, targets = [], []
    for k, item in enumerate(items):
        pool: Found = boxes[k], scores[k], labels[k].astype(np.int64)
        if choice.guess is not None:
            guessed = choice.guess(item, pool, rng)
            boxes_, scores_, labels_ = map(np.concatenate, zip(pool, guessed, strict=True))
            pool = boxes_, scores_, labels_
        chosen = choose_proposals(pool[0], pool[1], item.boxes, item.labels, rng, choice)
        own, sure, kinds = (values[chosen] for values in pool)
        index = PointIndex.of(item.points, first.config.pillars.extent)
        extent = first.config.pillars.extent
        inputs.append(
            refinement_inputs(
                own, sure, kinds, len(CLASSES), index, item.views, extent, item.base_from_grid
            )
        )
        target = refinement_targets(own, item.boxes, item.labels)
        target["judged"] = judged(own, target["found"], item.labelled, extent)
        targets.append(target)
    said = {n: _stack([i[n] for i in inputs], bev) for n in inputs[0]}
    goal = {n: _stack([t[n] for t in targets], bev) for n in targets[0]}
    return Refinable((bev, atlases), said.pop("boxes"), said, items=items, **goal)


def refinement_losses(first: ProposalNetwork, network: nn.Module, batch: Batch) -> Losses:
    """Losses of the refinement on a batch, on proposals of the first network."""
    assert isinstance(network, RefinementNetwork)
    made = refinable(first, _device_of(network), batch)
    refined = network.refined(*made.maps, made.said)
    right = made.confidences(refined.residuals)
    return losses_of_refined(refined, made.proposals, made.matched, made.found, right, made.judged)


def losses_of_refined(
    refined: Refined,
    proposals: Tensor,
    matched: Tensor,
    found: Tensor,
    right: Tensor,
    judged: Tensor,
) -> Losses:
    """Losses of what is refined, its confidences against right ones (B, R, classes); the rest as
    Refinable has it."""
    near, corner = residual_loss(proposals, refined.residuals, matched, found)
    sure = confidence_loss(refined.logits, right, judged)
    ends = ends_loss(refined, proposals, matched, found)
    losses = {"confidence": sure, "residual": near, "corner": corner, "ends": ends}
    return losses | {"total": sure + near + corner + 0.5 * ends}


def _no_atlases(config: DetectorConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    shapes = (
        (max(config.cameras, 1), config.camera_size),
        (max(config.infrareds, 1), config.infrared_size),
    )
    made = [
        like.new_zeros(len(like), config.channels, n * (h // CELL_PIXELS), w // CELL_PIXELS)
        for n, (h, w) in shapes
    ]
    return made[0], made[1]


def choose_proposals(
    boxes: np.ndarray,
    scores: np.ndarray,
    labelled: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    choice: Choice = Choice(),
) -> np.ndarray:
    """Which proposals of a frame to refine in training: those that suppression leaves, half of them
    on objects where there are enough, rare classes more often; repeated where there are too few."""
    kept = non_maximum_suppression(boxes, scores, choice.suppressed)
    best, found = match(boxes[kept], labelled)
    on, off = kept[found], kept[~found]
    if len(on):
        classes = labels[best[found]]
        share = np.bincount(classes)[classes] ** -0.5
        count = min(choice.count // 2, len(on))
        on = rng.choice(on, count, replace=False, p=share / share.sum())
    # The surest mistakes teach the most; some of the rest as well.
    sure = off[: (choice.count - len(on)) * 2 // 3]
    rest = rng.permutation(off[len(sure) :])[: choice.count - len(on) - len(sure)]
    chosen = np.concatenate([on, sure, rest])
    return np.resize(chosen, choice.count)


def match(proposals: np.ndarray, boxes: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The label (R,) of boxes (K, 7) that each proposal (R, 7) overlaps most, and whether (R,) it is
    to be refined to it."""
    if not len(boxes):
        return np.zeros(len(proposals), np.int64), np.zeros(len(proposals), bool)
    overlap = iou_3d(proposals, boxes)
    best = overlap.argmax(axis=1)
    value = overlap[np.arange(len(proposals)), best]
    own, theirs = proposals[:, 3:6].prod(axis=1), boxes[best, 3:6].prod(axis=1)
    inside = value / (1.0 + value) * (own + theirs)
    return best, (value >= MATCHED) | ((value >= LITTLE) & (inside >= WITHIN * own))


def refinement_targets(
    proposals: np.ndarray, boxes: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Matched boxes (R, 7) of proposals (R, 7), themselves where there is none, their kinds (R,), and
    found (R,)."""
    best, found = match(proposals, boxes)
    matched, kinds = proposals.copy(), np.zeros(len(proposals), np.float32)
    matched[found], kinds[found] = boxes[best[found]], labels[best[found]]
    return {"matched": matched, "kinds": kinds, "found": found.astype(np.float32)}


def confidences(refined: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the confidences (R, classes) of refined boxes (R, 7) should be: in the class of the label
    that each overlaps most, how much (LoGoNet, section 3.5); elsewhere 0.

    By the refined boxes, not the proposals: those are what is reported.
    """
    right = np.zeros((len(refined), len(CLASSES)), np.float32)
    if len(boxes):
        overlap = iou_3d(refined, boxes)
        best = overlap.argmax(axis=1)
        rows = np.arange(len(refined))
        right[rows, labels[best]] = soft_target(torch.from_numpy(overlap[rows, best])).numpy()
    return right


def judged(
    proposals: np.ndarray, found: np.ndarray, labelled: np.ndarray | None, extent: float
) -> np.ndarray:
    """1 for proposals (R, 7) whose confidence can be judged: on a label, or where labels would be."""
    if labelled is None:
        return np.ones(len(proposals), np.float32)
    cells = (proposals[:, :2] + extent) / (2 * extent) * len(labelled)
    column, row = cells.astype(np.int64).clip(0, len(labelled) - 1).T
    return np.maximum(found, labelled[row, column]).astype(np.float32)


def _stack(arrays: Sequence[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(like.device, torch.float32)


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _placed(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.to(device, non_blocking=True) for n, t in tensors.items()}
