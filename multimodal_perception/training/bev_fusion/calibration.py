"""Stage calibration: scores become probabilities, and variances become those of the actual errors.

Both are fitted on drives that no other stage was trained on, with all sensors, without images and
without LiDAR. A box counts as correct if its centre is within 2 m of a label of its class.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from tqdm import tqdm

from multimodal_perception.detection.bev_fusion.boxes import MIN_SCORE, BevDetections
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.network_config import CLASSES, VARIANCES
from multimodal_perception.evaluation.detections import match_by_distance
from multimodal_perception.networks.bev_fusion_refinement import BevFusionRefinement
from multimodal_perception.training import checkpoint
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.dataset import (
    BevFusionDataset,
    BevFusionFrame,
    FrameOptions,
)
from multimodal_perception.training.bev_fusion.image_features import store_features
from multimodal_perception.training.bev_fusion.inference import detect
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.bev_fusion.sensor_dropout import SensorDropoutConfig
from multimodal_perception.training.bev_fusion.stage_weights import (
    WEIGHTS,
    find_weights,
    load_encoders,
    load_stage1,
)
from multimodal_perception.training.checkpoint import load_weights, save_weights
from multimodal_perception.training.loop import Progress
from multimodal_perception.training.recipe.steps import write_atomically

# Sensors with which each frame is evaluated.
COMPLETE = SensorDropoutConfig(0, 0, 0, 0, 0, 0, 0)
SUBSETS = {
    "all": COMPLETE,
    "without images": dataclasses.replace(COMPLETE, images=1.0),
    "without lidar": dataclasses.replace(COMPLETE, lidar=1.0),
}
MATCH_DISTANCE = 2.0
# Boxes below this score are not used: the detector does not report them.
LOWEST_SCORE = 0.02
# Boxes, and correct boxes, that a class needs for its own parameters instead of those of all classes.
MIN_BOXES, MIN_MATCHES = 100, 20
# Weight of the squared difference of the parameters of a class from those of all classes.
PRIOR = 4.0
# The largest errors are wrong matches. Squared errors are limited to this multiple of their variance.
MAX_SQUARED_ERROR = 25.0


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Detections of many frames: scores (N,), labels (N,), matched (N,); of the matched ones, errors
    relative to their standard deviation (M, VARIANCES)."""

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    matched: NDArray[np.bool_]
    relative_errors: NDArray[np.float64]


def calibrate(
    config: BevFusionTraining, data: Path, out: Path, start: Sequence[Path]
) -> dict[str, list[float]]:
    """Fit the calibration on config.loop.steps frames of a folder of samples.

    start: weights of all other stages. Writes calibration.json, slope and offset by class (see
    model_cards.score_calibration), and the second stage with corrected variances. Raises UserError.
    """
    progress = Progress(config.loop)
    torch.manual_seed(config.loop.seed)
    stage2 = BevFusionRefinement(config.network)
    load_weights(stage2, find_weights(start, "refinement"))
    stage2.eval()
    evaluated = _evaluate(config, data, start, stage2)
    result = fit_scores(evaluated)
    correct_variances(stage2, evaluated.relative_errors)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(stage2, out / WEIGHTS["refinement"])
    write_atomically(out / WEIGHTS["calibration"], json.dumps(result, indent=1))
    progress.step = config.loop.steps
    checkpoint.save(out / "checkpoint.pt", {"progress": progress})
    return result


def read_calibration(path: Path) -> dict[str, list[float]]:
    """Slope and offset by class of a file that `calibrate` wrote."""
    values: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _evaluate(
    config: BevFusionTraining, data: Path, start: Sequence[Path], stage2: BevFusionRefinement
) -> Evaluated:
    paths = sample_paths(data)[: config.loop.steps]
    encoders = load_encoders(config.network, start)
    store_features(paths, encoders, config.network, config.loop.precision)
    stage1 = load_stage1(config.network, start)
    nms_iou = FusionConfig().nms_iou
    parts = [
        evaluate_frame(detect(stage1, stage2, frame, nms_iou), frame)
        for frame in tqdm(_frames(config, paths), "calibration", total=len(paths) * len(SUBSETS))
    ]
    return Evaluated(
        *(np.concatenate(v) for v in zip(*map(dataclasses.astuple, parts), strict=True))
    )


def _frames(config: BevFusionTraining, paths: Sequence[Path]) -> Iterator[BevFusionFrame]:
    """Each frame with each subset of the sensors; rigs may have the same sensors in several of them."""
    for dropout in SUBSETS.values():
        options = FrameOptions(dropout=dropout, painting=config.painting)
        frames = BevFusionDataset(paths, config.network, options, config.loop.seed)
        yield from (frames[k] for k in range(len(frames)))


def evaluate_frame(found: BevDetections, frame: BevFusionFrame) -> Evaluated:
    """Compare the detections in a frame with its labels. Detections of ignored objects are left out."""
    found = found.select(found.scores >= LOWEST_SCORE)
    objects = frame.objects
    matched, errors = np.zeros(len(found), bool), []
    ignored = np.zeros(len(found), bool)
    for label in range(len(CLASSES)):
        rows = np.flatnonzero(found.labels == label)
        truth = np.flatnonzero(objects.labels == label)
        match = match_by_distance(
            found.boxes[rows],
            found.scores[rows],
            objects.boxes[truth],
            MATCH_DISTANCE,
            np.ones(len(truth), bool),
        )
        hits = match >= 0
        matched[rows[hits]] = True
        errors.append(_relative_errors(found, rows[hits], frame, truth[match[hits]]))
        others = objects.ignored[objects.ignored_labels == label]
        near = match_by_distance(
            found.boxes[rows],
            found.scores[rows],
            others,
            MATCH_DISTANCE,
            np.ones(len(others), bool),
        )
        ignored[rows[(near >= 0) & ~hits]] = True
    keep = ~ignored
    return Evaluated(
        found.scores[keep].astype(np.float64),
        found.labels[keep],
        matched[keep],
        np.concatenate(errors),
    )


def _relative_errors(
    found: BevDetections,
    rows: NDArray[np.int64],
    frame: BevFusionFrame,
    truth: NDArray[np.int64],
) -> NDArray[np.float64]:
    boxes, labels = found.boxes[rows].astype(np.float64), frame.objects.boxes[truth]
    errors = np.empty((len(rows), VARIANCES))
    errors[:, :6] = boxes[:, :6] - labels[:, :6]
    turned = 2 * (boxes[:, 6] - labels[:, 6])
    errors[:, 6] = np.arctan2(np.sin(turned), np.cos(turned)) / 2
    errors[:, 7:] = found.velocities[rows] - frame.objects.velocities[truth]
    relative: NDArray[np.float64] = errors / np.sqrt(np.maximum(found.variances[rows], 1e-8))
    return relative


def fit_scores(evaluated: Evaluated) -> dict[str, list[float]]:
    """Slope and offset by class of the logit of the score (Platt 1999).

    Classes with few boxes have the parameters of all classes together.
    """
    scores = np.clip(evaluated.scores, MIN_SCORE, 1 - MIN_SCORE)
    logits = np.log(scores / (1 - scores))
    common = _fit(logits, evaluated.matched, np.array([1.0, 0.0]), 0.0)
    result = {}
    for label, name in enumerate(CLASSES):
        rows = evaluated.labels == label
        hits = evaluated.matched[rows]
        parameters = common
        if len(hits) >= MIN_BOXES and hits.sum() >= MIN_MATCHES:
            parameters = _fit(logits[rows], hits, common, PRIOR)
        result[name] = [round(float(v), 4) for v in parameters]
    return result


def _fit(
    logits: NDArray[np.float64], hits: NDArray[np.bool_], start: NDArray[np.float64], prior: float
) -> NDArray[np.float64]:
    """Log slope and offset with the largest likelihood; slopes are positive."""
    if not hits.any() or hits.all():
        return start
    signs = np.where(hits, 1.0, -1.0)
    first = np.array([np.log(start[0]), start[1]])

    def loss(values: NDArray[np.float64]) -> float:
        z = np.exp(values[0]) * logits + values[1]
        return float(np.logaddexp(0.0, -signs * z).sum() + prior * ((values - first) ** 2).sum())

    best = minimize(loss, first, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}).x
    return np.array([np.exp(best[0]), best[1]])


def correct_variances(
    network: BevFusionRefinement, relative_errors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale the variances of the second stage to the mean squared errors.

    relative_errors: (M, VARIANCES), divided by the standard deviations. Adds the logarithm of the
    factors (VARIANCES,), which are returned, to the bias of the log variances.
    """
    if not len(relative_errors):
        return np.ones(VARIANCES)
    factors = np.minimum(relative_errors**2, MAX_SQUARED_ERROR).mean(axis=0)
    factors = np.clip(factors, 1e-3, MAX_SQUARED_ERROR)
    with torch.no_grad():
        bias = network.residual.bias[-VARIANCES:]
        bias += torch.from_numpy(np.log(factors)).to(bias)
    return factors
