"""Training of what the refinement makes of metres alone: its rest, and the proposal network, stay.

Centimetres of its width tell a bus of 9 m from one of 12, which takes far more looks at buses than the
training of the whole has steps for. Neither images nor maps have a part in it: so proposals of all
frames, and guesses at what is large in them, are stored once, with what the rest of the refinement says
of them, and go by in large batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from multimodal_perception.networks.detector_config import CLASSES
from multimodal_perception.networks.fusion_detector import ProposalNetwork, RefinementNetwork
from multimodal_perception.training.checkpoint import save_weights
from multimodal_perception.training.detector import (
    Choice,
    DetectorTraining,
    begin,
    frames_of,
    losses_of_refined,
    read_proposals,
    refinable,
)
from multimodal_perception.training.detector_data import DetectorData, Item, collate
from multimodal_perception.training.loop import Loop, Losses

# Frames of a batch while proposals are made.
FRAMES = 4
# So many proposals of a frame are stored, and so many guesses are among those that they are chosen from.
STORED, GUESSES, SUPPRESSED = 48, 16, 0.97
# How wrong guesses are (standard deviations): logarithm of the size; metres along, from where the near
# end would be, across, and up; radians.
SIZE_OFF, PLACE_OFF, YAW_OFF = (0.12, 0.025, 0.03), (0.2, 0.1, 0.05), 0.035
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
    network.head.ends.requires_grad_(True)
    network.head.outline.requires_grad_(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = look(config, frames, first.to(device), network.to(device))
    loop = Loop(network, Numbers(len(rows["found"])), torch.tensor, config.loop, out)

    def losses_of(module: nn.Module, batch: Tensor) -> Losses:
        assert isinstance(module, RefinementNetwork)
        row = {name: values[batch].to(loop.device) for name, values in rows.items()}
        sure, ends = module.head.measured(row["told"], row["outlines"])
        return losses_of_refined(
            row["logits"] + sure, row["residuals"] + ends, row["proposals"], row["matched"],
            row["found"], row["right"], row["judged"],
        )  # fmt: skip

    trained = loop.run(losses_of)
    assert isinstance(trained, RefinementNetwork)
    if loop.rank == 0:
        save_weights(trained, out / "refinement.safetensors")
    return trained


def look(
    config: DetectorTraining,
    frames: DetectorData,
    first: ProposalNetwork,
    network: RefinementNetwork,
) -> Rows:
    """Proposals of all frames, one a row: what losses_of_refined takes, with logits and residuals as
    they are without what is measured."""
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
                logits, residuals = network.logits(*made.maps, made.said)
                sure, ends = network.head.measured(made.said["told"], made.said["roi_outline"])
            row = {
                "told": made.said["told"],
                "outlines": made.said["roi_outline"],
                "proposals": made.proposals,
                "matched": made.matched,
                "found": made.found,
                "judged": made.judged,
                "right": made.confidences(residuals),
                "logits": logits - sure,
                "residuals": residuals - ends,
            }
            for name, values in row.items():
                parts[name].append(values.flatten(0, 1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def guesses(
    item: Item, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """GUESSES boxes (G, 7) at large vehicles of a frame, scores (G,) and labels (G,), rarer ones more
    often; none where there is none. The near end, which the sensor sees, is guessed better than the far
    one."""
    large = np.flatnonzero(np.isin(item.labels, LARGE))
    if not len(large):
        return np.zeros((0, 7), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    share = np.bincount(item.labels[large])[item.labels[large]] ** -0.5
    picked = rng.choice(large, GUESSES, p=share / share.sum())
    boxes = item.boxes[picked].astype(np.float64)
    c, s = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    towards = -np.sign(c * boxes[:, 0] + s * boxes[:, 1])
    size = boxes[:, 3:6] * np.exp(rng.normal(0.0, SIZE_OFF, (GUESSES, 3)))
    along, across, up = rng.normal(0.0, PLACE_OFF, (GUESSES, 3)).T
    along = towards * ((boxes[:, 3] - size[:, 0]) / 2 + along)
    boxes[:, :3] += np.column_stack([c * along - s * across, s * along + c * across, up])
    boxes[:, 3:6] = size
    boxes[:, 6] += rng.normal(0.0, YAW_OFF, GUESSES)
    scores = rng.uniform(0.1, 0.9, GUESSES).astype(np.float32)
    return boxes.astype(np.float32), scores, item.labels[picked].astype(np.int64)


class Numbers(Dataset[int]):
    """Numbers of rows, as a data set of the loop."""

    epoch = 0

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> int:
        return k
