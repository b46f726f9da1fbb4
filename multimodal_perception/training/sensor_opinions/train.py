"""Trains the network of the sensors' opinions on stored features.

Loss of "Trusted multi-view classification" (Han et al. 2021, section 3.4, equation 12): the evidential
loss of the combined opinion plus that of each view.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from multimodal_perception.box_evidence import GROUPS
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.model_cards import read_detector_cards
from multimodal_perception.detection.bev_fusion.opinion_features import (
    FIRST_SLOT,
    SLOTS,
    OpinionNetworkConfig,
)
from multimodal_perception.networks.sensor_opinions import SensorOpinions
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.training.checkpoint import save_weights
from multimodal_perception.training.evidential_loss import annealed, evidential_loss
from multimodal_perception.training.loop import Loop, Losses
from multimodal_perception.training.recipe.steps import write_atomically
from multimodal_perception.training.sensor_opinions.configuration import SensorOpinionsTraining
from multimodal_perception.training.sensor_opinions.validation import validate

WEIGHTS, FIGURES = "sensor_opinions.safetensors", "figures.json"
# Lower limit of the uncertainty of the combined opinion in the loss.
MIN_UNCERTAINTY = 1e-4
Arrays = dict[str, NDArray[Any]]


class BoxDataset(Dataset[dict[str, Tensor]]):
    """Boxes with their features as tensors; see rendering for the arrays."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = {n: arrays[n] for n in (*FIRST_SLOT, "valid", "truth")}
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.arrays["truth"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = {n: torch.as_tensor(v[index]) for n, v in self.arrays.items()}
        return {n: v.float() if v.dtype == torch.float16 else v for n, v in row.items()}


def train_sensor_opinions(config: SensorOpinionsTraining, data: Path, out: Path) -> SensorOpinions:
    """Train on the features in a folder, or resume the training in `out`.

    Writes the weights and the figures of the drives that are left out of the training. Raises UserError.
    """
    channels = read_detector_cards(config.detector).network.channels
    training, validation = read_features(data, config.validation_interval)
    torch.manual_seed(config.loop.seed)
    network = SensorOpinions(OpinionNetworkConfig(channels, config.hidden, config.dropout))
    for modality, first in FIRST_SLOT.items():
        values = training[modality]
        valid = training["valid"][:, first : first + values.shape[1]]
        network.set_normalisation(modality, torch.from_numpy(values[valid].astype(np.float32)))
    loop = Loop(network, BoxDataset(training), default_collate, config.loop, out)

    def compute_losses(
        module: nn.Module, batch: dict[str, Tensor], rng: np.random.Generator
    ) -> Losses:
        progress = annealed(loop.step / (config.annealing * config.loop.steps))
        return opinion_losses(module, batch, config.reliability, progress)

    loop.run(compute_losses)
    if loop.rank == 0:
        save_weights(network, out / WEIGHTS)
        figures = validate(predict(network, validation), validation, config.reliability)
        write_atomically(out / FIGURES, json.dumps(figures, indent=1))
    return network


def read_features(folder: Path, validation_interval: int) -> tuple[Arrays, Arrays]:
    """Arrays of the boxes for the training and for the validation. Raises UserError.

    Every validation_interval-th drive is for the validation, which is empty with fewer drives.
    """
    drives = [a for p in sorted(folder.glob("*.npz")) if (a := read_npz(p))]
    if not drives:
        raise UserError(f"{folder}: no boxes; the detector found nothing in any drive")
    held_out = [k % validation_interval == validation_interval - 1 for k in range(len(drives))]
    parts: list[Arrays] = []
    for wanted in (False, True):
        chosen = [d for d, held in zip(drives, held_out, strict=True) if held is wanted]
        empty = {n: v[:0] for n, v in drives[0].items()}
        parts.append({n: np.concatenate([empty[n], *(d[n] for d in chosen)]) for n in empty})
    return parts[0], parts[1]


def opinion_losses(
    network: nn.Module, batch: Mapping[str, Tensor], reliability: float, progress: float
) -> Losses:
    """Losses by modality, of the combination and in total, of a batch of boxes (TMC, equation 12).

    Slots without an opinion have no loss of their own. reliability: weight of the opinions before they
    are combined. progress: weight of the divergence from zero evidence, 0 to 1.
    """
    device = next(network.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    evidence = network(*(batch[m][None] for m in FIRST_SLOT))[0].float()  # (B, slots, K)
    valid, truth = batch["valid"], batch["truth"]
    losses: Losses = {}
    for modality in FIRST_SLOT:
        slots = [k for k, name in enumerate(SLOTS) if name == modality]
        rows = valid[:, slots]
        targets = truth[:, None].expand(rows.shape)[rows]
        losses[modality] = evidential_loss(evidence[:, slots][rows], targets, progress)
    observed = valid.any(1)
    combined = combine_evidence(evidence[observed], valid[observed], reliability)
    losses["combined"] = evidential_loss(combined, truth[observed], progress)
    losses["total"] = torch.stack(list(losses.values())).sum()
    return losses


def combine_evidence(evidence: Tensor, valid: Tensor, reliability: float) -> Tensor:
    """Evidence (N, K) of opinions that are discounted and combined by Dempster's rule.

    The same as opinions.combine, with gradients. evidence: (N, slots, K) float32. valid: (N, slots)
    bool, slots with an opinion. reliability: weight of each opinion, 0 to 1.
    """
    classes = evidence.shape[-1]
    strength = evidence.sum(-1, keepdim=True) + classes
    belief = reliability * evidence / strength * valid[..., None]
    uncertainty = 1.0 - belief.sum(-1)
    either = (belief + uncertainty[..., None]).log().sum(1)
    unknown = uncertainty.log().sum(1, keepdim=True)
    shift = either.max(1, keepdim=True).values.detach()
    rest = (unknown - shift).exp()
    joint = ((either - shift).exp() - rest).clamp(min=0.0)
    total = joint.sum(1, keepdim=True) + rest
    return joint * classes / torch.maximum(rest, MIN_UNCERTAINTY * total)


def predict(network: SensorOpinions, arrays: Arrays, rows: int = 4096) -> NDArray[np.float32]:
    """Evidence (N, slots, K) of boxes. arrays: see rendering. rows: boxes in one run of the network."""
    device = next(network.parameters()).device
    parts = [np.zeros((0, len(SLOTS), len(GROUPS)), np.float32)]
    with torch.inference_mode():
        for first in range(0, len(arrays["truth"]), rows):
            inputs: Sequence[Tensor] = [
                torch.from_numpy(arrays[m][first : first + rows].astype(np.float32))[None]
                for m in FIRST_SLOT
            ]
            parts.append(network(*(t.to(device) for t in inputs))[0].float().cpu().numpy())
    return np.concatenate(parts)
