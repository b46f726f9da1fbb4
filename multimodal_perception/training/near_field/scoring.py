"""Metrics of the near-field network, and calibration of its evidence."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.frame import VehicleFootprint
from multimodal_perception.networks.near_field import NearField
from multimodal_perception.training.near_field.dataset import CLASSES, RESOLUTION
from multimodal_perception.training.near_field.samples import Samples

# Factors on the evidence that calibration tries, and the expected calibration error that is
# sufficient. The smallest sufficient factor is used, because more evidence leaves less unknown mass
# for unfamiliar inputs.
EVIDENCE_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
TARGET_CALIBRATION_ERROR = 0.04
# Hard obstacles are scored within this distance of the vehicle, together with the free cells within this
# distance of the obstacles, metres.
NEAR_DISTANCE, SURROUNDINGS_DISTANCE = 5.0, 1.0


def calibrate_evidence(
    network: NearField, samples: Samples, with_ultrasonics: bool = True
) -> float:
    """Set the evidence factor of the network and return it.

    It is the smallest of EVIDENCE_FACTORS with a calibration error of at most
    TARGET_CALIBRATION_ERROR, or the one with the smallest error. samples: from drives that were not
    used for training.
    """
    network.settings = replace(network.settings, evidence_scale=1.0)
    evidence = _evidence(network, samples, with_ultrasonics)
    labels, hard = samples.labels.numpy(), samples.hard.numpy()
    errors = {}
    for factor in EVIDENCE_FACTORS:
        free, occupied = masses(factor * evidence).numpy().transpose(1, 0, 2, 3)
        metrics = cell_metrics(free, occupied, labels, hard, samples.vehicle_footprint)
        errors[factor] = metrics["ece"]
    sufficient = [
        factor for factor in EVIDENCE_FACTORS if errors[factor] <= TARGET_CALIBRATION_ERROR
    ]
    best = min(sufficient, default=min(errors, key=lambda factor: errors[factor]))
    network.settings = replace(network.settings, evidence_scale=best)
    return best


def score(
    network: NearField, samples: Samples, with_ultrasonics: bool = True, with_cameras: bool = True
) -> dict[str, dict[str, float]]:
    """Metrics of all samples, of those by day and of those at night; see `cell_metrics`.

    with_ultrasonics, with_cameras: whether these sensors are available. Keys: all, day, night.
    """
    free, occupied = (
        masses(_evidence(network, samples, with_ultrasonics, with_cameras))
        .numpy()
        .transpose(1, 0, 2, 3)
    )
    labels, hard = samples.labels.numpy(), samples.hard.numpy()
    groups = {"all": np.ones(len(labels), bool), "night": samples.night, "day": ~samples.night}
    return {
        name: cell_metrics(
            free[rows], occupied[rows], labels[rows], hard[rows], samples.vehicle_footprint
        )
        for name, rows in groups.items()
        if rows.any()
    }


def score_by_modality(
    network: NearField, samples: Samples
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics (see score) with both modalities, with fisheye cameras only and with ultrasonic
    sensors only."""
    results = {
        "both": score(network, samples),
        "fisheyes": score(network, samples, with_ultrasonics=False),
        "ultrasonics": score(network, samples, with_cameras=False),
    }
    return {k: {g: _rounded(v) for g, v in groups.items()} for k, groups in results.items()}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if not math.isnan(value)}


def _evidence(
    network: NearField, samples: Samples, with_ultrasonics: bool = True, with_cameras: bool = True
) -> Tensor:
    """Evidence (N, K, 72, 72) of all samples, with or without ultrasonic sensors and cameras."""
    evidence = []
    for i in range(len(samples)):
        batch = {
            "fine": samples.fine[i : i + 1].float(),
            "coarse": samples.coarse[i : i + 1].float(),
            "sample_uv": samples.sample_uv[None]
            if with_cameras
            else torch.full_like(samples.sample_uv[None], -2.0),
            "ultrasonic_grid": samples.ultrasonic_grid[i : i + 1].float(),
            "has_ultrasonic": torch.tensor([1.0 if with_ultrasonics else 0.0]),
        }
        with torch.inference_mode():
            evidence.append(network.decode(**batch)[0])
    return torch.cat(evidence)


def masses(evidence: Tensor) -> Tensor:
    """Free and occupied mass (B, 2, H, W): belief e / S (Sensoy et al. 2018); every class except
    free is occupied."""
    belief = evidence / (evidence.sum(dim=1, keepdim=True) + evidence.shape[1])
    return torch.stack([belief[:, 0], belief[:, 1:].sum(dim=1)], 1)


def cell_metrics(
    free: NDArray[np.floating],
    occupied: NDArray[np.floating],
    labels: NDArray[np.uint8],
    hard: NDArray[np.bool_],
    vehicle_footprint: VehicleFootprint | None,
) -> dict[str, float]:
    """Metrics of labelled cells (N, H, W). A cell is predicted occupied if occupied mass exceeds
    free mass.

    vehicle_footprint: for distances from the vehicle, see near_cells. false_free: fraction of the
    occupied cells that are predicted free. ece: expected calibration error. unknown: mean unknown
    mass. iou_hard, recall_hard: of the cells with HARD_CLASSES and the free cells within 1 m of them,
    up to 5 m from the vehicle. recall_X: recall of a class.
    """
    known = labels < len(CLASSES)
    truth, predicted = labels[known] > 0, (occupied > free)[known]
    intersection, union = (truth & predicted).sum(), (truth | predicted).sum()
    true_free, false_free = (~truth & ~predicted).sum(), (truth & ~predicted).sum()
    probability = 0.5 * (1 + occupied - free)[known]
    bins = np.clip((probability * 10).astype(int), 0, 9)
    gaps = [abs((probability - truth)[bins == b].sum()) for b in range(10)]
    result = {
        "iou_occupied": float(intersection / max(union, 1)),
        "iou_free": float(true_free / max((~truth | ~predicted).sum(), 1)),
        "false_free": float(false_free / max(truth.sum(), 1)),
        "ece": float(sum(gaps) / max(known.sum(), 1)),
        "unknown": float((1 - free - occupied)[known].mean()) if known.any() else math.nan,
    }
    near = near_cells(labels.shape[1:], vehicle_footprint)
    result |= _hard_obstacle_metrics(occupied > free, labels, hard & near, near)
    for number, name in enumerate(CLASSES[1:], 1):
        cells = labels == number
        result[f"recall_{name}"] = (
            float((occupied > free)[cells].mean()) if cells.any() else math.nan
        )
    return result


def _hard_obstacle_metrics(
    predicted: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    hard: NDArray[np.bool_],
    near: NDArray[np.bool_],
) -> dict[str, float]:
    """Metrics (see cell_metrics) of the cells of `hard` and the free cells of `near` (H, W)."""
    obstacles = hard & (labels > 0) & (labels < len(CLASSES))
    radius = round(SURROUNDINGS_DISTANCE / RESOLUTION)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    dilated = np.stack([cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in obstacles])
    free_around = dilated & (labels == 0) & near
    hits, cells = int((obstacles & predicted).sum()), int(obstacles.sum())
    return {
        "iou_hard": hits / (cells + int((free_around & predicted).sum())) if cells else math.nan,
        "recall_hard": hits / cells if cells else math.nan,
    }


def near_cells(
    shape: tuple[int, ...], vehicle_footprint: VehicleFootprint | None
) -> NDArray[np.bool_]:
    """Mask (rows, columns) of the cells whose centre is within 5 m of the vehicle's footprint.

    Without a footprint, distances are measured from the origin of base_link.
    """
    rear, front, right, left = vehicle_footprint or (0.0, 0.0, 0.0, 0.0)
    y, x = ((np.arange(n) + 0.5 - n / 2) * RESOLUTION for n in shape)
    distance_x = np.maximum(np.maximum(rear - x, x - front), 0.0)
    distance_y = np.maximum(np.maximum(right - y, y - left), 0.0)
    return np.hypot(distance_x[None], distance_y[:, None]) <= NEAR_DISTANCE
