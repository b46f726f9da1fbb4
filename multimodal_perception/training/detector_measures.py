"""Training of what the refinement makes of metres alone: its rest, and the proposal network, stay.

Centimetres of its width tell a bus of 9 m from one of 12, which takes far more looks at buses than the
training of the whole has steps for. Neither images nor maps have a part in it: so proposals of all
frames are stored once, with what the rest of the refinement says of them, and go by in large batches.
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
    DetectorTraining,
    begin,
    frames_of,
    losses_of_refined,
    match,
    read_proposals,
    refinable,
)
from multimodal_perception.training.detector_data import DetectorData, collate
from multimodal_perception.training.loop import Loop, Losses

# Frames of a batch while proposals are made.
FRAMES = 4
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
    chosen = balanced(rows["classes"].numpy(), rows["found"].numpy() > 0)
    loop = Loop(network, Numbers(chosen), torch.tensor, config.loop, out)

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
    they are without what is measured, and the classes of their labels."""
    network.eval()
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for epoch in range(config.looks):
        frames.epoch = epoch
        loader = DataLoader(frames, FRAMES, num_workers=config.loop.workers, collate_fn=collate)
        for step, batch in enumerate(tqdm(loader, f"proposals {epoch + 1}/{config.looks}")):
            torch.manual_seed(1_000_003 * config.loop.seed + epoch * len(loader) + step)
            with torch.no_grad():
                made = refinable(first, device, batch)
                logits, residuals = network.logits(*made.maps, made.said)
                sure, ends = network.head.measured(made.said["told"], made.said["roi_outline"])
            classes = [
                labels_of(p, i.boxes, i.labels)
                for p, i in zip(made.proposals.cpu().numpy(), made.items, strict=True)
            ]
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
                "classes": torch.from_numpy(np.stack(classes)),
            }
            for name, values in row.items():
                parts[name].append(values.flatten(0, 1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def labels_of(
    proposals: NDArray[np.float32], boxes: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Classes (R,) of the boxes (K, 7) that proposals (R, 7) are refined to; 0 where there is none."""
    best, found = match(proposals, boxes)
    return np.where(found, labels[best], 0) if len(boxes) else best


def balanced(classes: NDArray[np.int64], found: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of rows (N,), those of rare classes repeated: by the root of how rare they are."""
    counts = np.bincount(classes[found], minlength=len(CLASSES)).clip(1)
    times = np.rint(np.sqrt(counts.max() / counts)).astype(np.int64)[classes]
    return np.repeat(np.arange(len(classes)), np.where(found, times, 1))


class Numbers(Dataset[int]):
    """Numbers of rows, as a data set of the loop."""

    epoch = 0

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, k: int) -> int:
        return int(self.numbers[k])
