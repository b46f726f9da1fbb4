"""Training of the part of the refinement network that sets the length of large vehicles.

The width of a bus, to the centimetre, distinguishes buses of 9 m and 12 m length; learning this takes
many more examples of buses than there are in the training of all layers. This part uses neither images
nor the BEV map. Proposals of large vehicles and jittered copies are therefore stored once, with the
output of the other layers for them, and used in large batches. All other layers are frozen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from multimodal_perception.detection.bev_fusion.roi_features import CAR_LENGTH
from multimodal_perception.detection.fusion.network_config import CLASSES
from multimodal_perception.geometry.boxes import iou_3d_aligned
from multimodal_perception.networks.box_residuals import apply_residuals
from multimodal_perception.networks.fusion_detector import ProposalNetwork, RefinementNetwork
from multimodal_perception.networks.refinement_head import RefinementOutput
from multimodal_perception.training.bev_fusion.box_losses import soft_target
from multimodal_perception.training.bev_fusion.proposal_selection import match_proposals
from multimodal_perception.training.checkpoint import save_weights
from multimodal_perception.training.detector.dataset import DetectorDataset, TrainingFrame, collate
from multimodal_perception.training.detector.losses import build_roi_batch, refinement_output_losses
from multimodal_perception.training.detector.refinement_targets import (
    Detections,
    JitteredRoiSampling,
)
from multimodal_perception.training.detector.train import (
    DetectorTraining,
    build_dataset,
    load_initial_weights,
    load_proposal_network,
)
from multimodal_perception.training.distributed import join_process_group, training_device
from multimodal_perception.training.loop import Loop, Losses

FRAMES_PER_BATCH = 4  # while the proposals are computed
# Stored proposals of a frame, jittered proposals among which they are selected, and the IoU of the NMS.
STORED_ROIS, JITTERED, NMS_IOU = 48, 16, 0.97
# Standard deviations of jittered proposals: logarithms of length, width and height; metres of the near
# end along the box, across it and upwards; radians.
SIZE_STD, POSITION_STD, YAW_STD = (0.06, 0.02, 0.02), (0.15, 0.08, 0.04), 0.025
LARGE = [CLASSES.index("truck"), CLASSES.index("bus")]
Rows = dict[str, Tensor]


def train_large_vehicle_head(
    config: DetectorTraining, data: Path, out: Path, proposals: Path, start: Sequence[Path]
) -> RefinementNetwork:
    """Train RefinementHead.large_vehicle_head, or resume the training in `out`.

    proposals, start: weights of the trained proposal and refinement networks (.safetensors or models).
    loop.batch_size is the number of proposals in a step. Writes out/refinement.safetensors. Use frames
    on which the networks were not trained: on the others there are hardly any errors left to correct.
    Raises UserError.
    """
    torch.manual_seed(config.loop.seed)
    proposal_network, backbones = load_proposal_network(config, proposals)
    frames = build_dataset(config, data, backbones)
    network = RefinementNetwork(config.network)
    load_initial_weights(network, config, start)
    network.requires_grad_(False)
    network.head.large_vehicle_head.requires_grad_(True)
    rank, _ = join_process_group()
    device = training_device(rank)
    rows = collect_proposals(config, frames, proposal_network.to(device), network.to(device))
    loop = Loop(network, RowIndices(len(rows["positive_mask"])), torch.tensor, config.loop, out)

    def compute_losses(module: nn.Module, batch: Tensor, rng: np.random.Generator) -> Losses:
        assert isinstance(module, RefinementNetwork)
        row = {name: values[batch].to(loop.device) for name, values in rows.items()}
        output = module.head.refine_dimensions(
            row["proposal_features"], row["roi_profile"], row["logits"], row["residuals"]
        )
        return refinement_output_losses(
            output,
            row["proposals"],
            row["matched_boxes"],
            row["positive_mask"],
            updated_target_scores(row, output),
            row["supervised_mask"],
        )

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(network, out / "refinement.safetensors")
    return network


def updated_target_scores(row: Rows, output: RefinementOutput) -> Tensor:
    """Target scores (N, classes): of positive proposals by the IoU of the output with the labelled box,
    of the others as they were before this part of the network."""
    boxes = apply_residuals(row["proposals"], output.residuals.detach().float()).cpu().numpy()
    iou = torch.from_numpy(iou_3d_aligned(boxes, row["matched_boxes"].cpu().numpy())).float()
    target = soft_target(iou).to(row["target_scores"].device)
    of_positive = nn.functional.one_hot(row["target_labels"].long(), len(CLASSES)) * target[:, None]
    return torch.where(row["positive_mask"][:, None] > 0, of_positive, row["target_scores"])


def collect_proposals(
    config: DetectorTraining,
    frames: DetectorDataset,
    proposal_network: ProposalNetwork,
    network: RefinementNetwork,
) -> Rows:
    """Proposals of all frames that are longer than a car, one in a row, on the CPU.

    The rows hold the arguments of refinement_output_losses and the inputs of refine_dimensions: logits
    and residuals are those of the other layers.
    """
    network.eval()
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = defaultdict(list)
    sampling = JitteredRoiSampling(STORED_ROIS, NMS_IOU, jitter_proposals)
    for epoch in range(config.views_per_frame):
        frames.epoch = epoch
        loader = DataLoader(
            frames, FRAMES_PER_BATCH, num_workers=config.loop.workers, collate_fn=collate
        )
        for step, batch in enumerate(
            tqdm(loader, f"proposals {epoch + 1}/{config.views_per_frame}")
        ):
            rng = np.random.default_rng((config.loop.seed, epoch, step))
            with torch.no_grad():
                rois = build_roi_batch(proposal_network, device, batch, rng, sampling)
                logits, residuals = network.predict(*rois.feature_maps, rois.inputs)
            row = {
                "proposal_features": rois.inputs["proposal_features"],
                "roi_profile": rois.inputs["roi_profile"],
                "proposals": rois.proposals,
                "matched_boxes": rois.matched_boxes,
                "target_labels": rois.target_labels,
                "positive_mask": rois.positive_mask,
                "supervised_mask": rois.supervised_mask,
                "target_scores": rois.target_scores(residuals),
                "logits": logits,
                "residuals": residuals,
            }
            large = rois.proposals[..., 3] > CAR_LENGTH
            for name, values in row.items():
                parts[name].append(values[large].cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def jitter_proposals(
    frame: TrainingFrame, candidates: Detections, rng: np.random.Generator
) -> Detections:
    """JITTERED random variations of the candidates that are matched to a large vehicle, or none.

    Rare classes are drawn more often. The near end, which is visible to the sensors, varies less than
    the far end. Proposals are varied and not labelled boxes, so that their errors have the distribution
    of the errors of proposals.
    """
    boxes, scores, labels = candidates
    best, positive = match_proposals(boxes, frame.boxes)
    is_large = np.isin(frame.labels[best] if len(frame.labels) else best, LARGE)
    large = np.flatnonzero(positive & is_large)
    if not len(large):
        return boxes[:0], scores[:0], labels[:0]
    classes = frame.labels[best[large]]
    weights = np.bincount(classes)[classes] ** -0.5
    selected = rng.choice(large, JITTERED, p=weights / weights.sum())
    jittered = boxes[selected].astype(np.float64)
    c, s = np.cos(jittered[:, 6]), np.sin(jittered[:, 6])
    towards_sensor = -np.sign(c * jittered[:, 0] + s * jittered[:, 1])
    size = jittered[:, 3:6] * np.exp(rng.normal(0.0, SIZE_STD, (JITTERED, 3)))
    along, across, up = rng.normal(0.0, POSITION_STD, (JITTERED, 3)).T
    along = towards_sensor * ((jittered[:, 3] - size[:, 0]) / 2 + along)
    jittered[:, :3] += np.column_stack([c * along - s * across, s * along + c * across, up])
    jittered[:, 3:6] = size
    jittered[:, 6] += rng.normal(0.0, YAW_STD, JITTERED)
    return jittered.astype(np.float32), scores[selected], labels[selected]


class RowIndices(Dataset[int]):
    """Indices of rows as a data set for Loop."""

    epoch = 0

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> int:
        return k
