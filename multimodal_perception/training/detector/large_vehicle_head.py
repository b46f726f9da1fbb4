"""Training of what the refinement makes of metres alone: its rest, and the proposal network, stay.

Centimetres of its width tell a bus of 9 m from one of 12, which takes far more looks at buses than the
training of the whole has steps for. Neither images nor maps have a part in it: so proposals of large
vehicles, and guesses about them, are stored once, with what the rest of the refinement says of them, and
go by in large batches.
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

from multimodal_perception.detection.fusion.network_config import CLASSES
from multimodal_perception.geometry.boxes import iou_3d_each
from multimodal_perception.networks.fusion_detector import ProposalNetwork, RefinementNetwork
from multimodal_perception.networks.local_fusion import CAR, Refined, refined_boxes
from multimodal_perception.training.checkpoint import save_weights
from multimodal_perception.training.detector.dataset import DetectorData, Item, collate
from multimodal_perception.training.detector.losses import losses_of_refined, refinable
from multimodal_perception.training.detector.proposal_selection import Choice, Found, match
from multimodal_perception.training.detector.targets_and_losses import soft_target
from multimodal_perception.training.detector.train import (
    DetectorTraining,
    begin,
    frames_of,
    read_proposals,
)
from multimodal_perception.training.loop import Loop, Losses

# Frames of a batch while proposals are made.
FRAMES = 4
# So many proposals of a frame are stored, and so many guesses are among those that they are chosen from.
STORED, GUESSES, SUPPRESSED = 48, 16, 0.97
# How far guesses are from proposals (standard deviations): logarithm of the size; metres along, from
# where the near end would be, across, and up; radians.
SIZE_OFF, PLACE_OFF, YAW_OFF = (0.06, 0.02, 0.02), (0.15, 0.08, 0.04), 0.025
LARGE = [CLASSES.index("truck"), CLASSES.index("bus")]
Rows = dict[str, Tensor]


def train_measures(
    config: DetectorTraining, data: Path, out: Path, proposals: Path, start: Sequence[Path]
) -> RefinementNetwork:
    """Train RefinementHead.measured of a refinement (start, .safetensors) on a trained proposal network
    (.safetensors). config.loop.batch: proposals a step; config.looks: times that each frame is seen."""
    torch.manual_seed(config.loop.seed)
    first, trunks = read_proposals(config, proposals)
    frames = frames_of(config, data, trunks)
    network = RefinementNetwork(config.network)
    begin(network, config, start)
    network.requires_grad_(False)
    network.head.outline.requires_grad_(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = look(config, frames, first.to(device), network.to(device))
    loop = Loop(network, Numbers(len(rows["found"])), torch.tensor, config.loop, out)

    def losses_of(module: nn.Module, batch: Tensor) -> Losses:
        assert isinstance(module, RefinementNetwork)
        row = {name: values[batch].to(loop.device) for name, values in rows.items()}
        told = row["told"], row["outlines"], row["logits"], row["residuals"]
        refined = module.head.measured(*told)
        return losses_of_refined(
            refined,
            row["proposals"],
            row["matched"],
            row["found"],
            right(row, refined),
            row["judged"],
        )

    trained = loop.run(losses_of)
    assert isinstance(trained, RefinementNetwork)
    if loop.rank == 0:
        save_weights(trained, out / "refinement.safetensors")
    return trained


def right(row: Rows, refined: Refined) -> Tensor:
    """What the confidences (N, classes) should be: of a matched box by how much of it is met now, of
    others as it was without what is measured."""
    boxes = refined_boxes(row["proposals"], refined.residuals.detach().float()).cpu().numpy()
    overlap = torch.from_numpy(iou_3d_each(boxes, row["matched"].cpu().numpy())).float()
    met = soft_target(overlap).to(row["right"].device)
    own = nn.functional.one_hot(row["kinds"].long(), len(CLASSES)) * met[:, None]
    return torch.where(row["found"][:, None] > 0, own, row["right"])


def look(
    config: DetectorTraining,
    frames: DetectorData,
    first: ProposalNetwork,
    network: RefinementNetwork,
) -> Rows:
    """Proposals of all frames that are longer than a car, one a row: what losses_of_refined takes, with
    logits and residuals as they are without what is measured. The frames should be new to the network:
    on those that it was trained on, it has nothing left to put right."""
    network.eval()
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for epoch in range(config.looks):
        frames.epoch = epoch
        loader = DataLoader(frames, FRAMES, num_workers=config.loop.workers, collate_fn=collate)
        for step, batch in enumerate(tqdm(loader, f"proposals {epoch + 1}/{config.looks}")):
            torch.manual_seed(1_000_003 * config.loop.seed + epoch * len(loader) + step)
            with torch.no_grad():
                made = refinable(first, device, batch, Choice(STORED, SUPPRESSED, guesses))
                logits, residuals = network.said(*made.maps, made.said)
            row = {
                "told": made.said["told"],
                "outlines": made.said["roi_outline"],
                "proposals": made.proposals,
                "matched": made.matched,
                "kinds": made.kinds,
                "found": made.found,
                "judged": made.judged,
                "right": made.confidences(residuals),
                "logits": logits,
                "residuals": residuals,
            }
            large = made.proposals[..., 3] > CAR
            for name, values in row.items():
                parts[name].append(values[large].cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def guesses(item: Item, pool: Found, rng: np.random.Generator) -> Found:
    """GUESSES more proposals about those of a pool that lie on large vehicles, rarer ones more often;
    none where there is none. The near end, which the sensor sees, is moved less than the far one.

    About proposals, not labels: a guess must tell no more of the truth than a proposal does.
    """
    boxes, scores, labels = pool
    best, found = match(boxes, item.boxes)
    large = np.flatnonzero(found & np.isin(item.labels[best] if len(item.labels) else best, LARGE))
    if not len(large):
        return boxes[:0], scores[:0], labels[:0]
    kinds = item.labels[best[large]]
    share = np.bincount(kinds)[kinds] ** -0.5
    picked = rng.choice(large, GUESSES, p=share / share.sum())
    made = boxes[picked].astype(np.float64)
    c, s = np.cos(made[:, 6]), np.sin(made[:, 6])
    towards = -np.sign(c * made[:, 0] + s * made[:, 1])
    size = made[:, 3:6] * np.exp(rng.normal(0.0, SIZE_OFF, (GUESSES, 3)))
    along, across, up = rng.normal(0.0, PLACE_OFF, (GUESSES, 3)).T
    along = towards * ((made[:, 3] - size[:, 0]) / 2 + along)
    made[:, :3] += np.column_stack([c * along - s * across, s * along + c * across, up])
    made[:, 3:6] = size
    made[:, 6] += rng.normal(0.0, YAW_OFF, GUESSES)
    return made.astype(np.float32), scores[picked], labels[picked]


class Numbers(Dataset[int]):
    """Numbers of rows, as a data set of the loop."""

    epoch = 0

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> int:
        return k
