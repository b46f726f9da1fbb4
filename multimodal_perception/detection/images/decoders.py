"""From the outputs of common detection networks to boxes, scores and classes.

yolox: grid cells with box offsets, objectness and class scores (Ge et al. 2021). yolov8: boxes and
class scores of all cells, as exported by the YOLO versions 5 to 11. detr: a box and class logits for
each query (Carion et al. 2020; RT-DETR, Zhao et al. 2024). ssd: offsets from prior boxes, or decoded
boxes, and class scores (Liu et al. 2016). nms: boxes after a suppression that is a part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Format = Literal["yolox", "yolov8", "detr", "ssd", "nms"]
Units = Literal["pixels", "normalised"]
FORMATS: tuple[Format, ...] = ("yolox", "yolov8", "detr", "ssd", "nms")
Outputs = Mapping[str, NDArray[Any]]
# Boxes (N, 4) x1 y1 x2 y2 in pixels of the network's input, scores (N,) and class indices (N,).
Decoded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
Float = NDArray[np.float32]
# Logarithms of sizes above this are limited, so that a wrong network gives no infinite boxes.
MAX_LOG_SIZE = 12.0


@dataclass(frozen=True)
class DecoderSettings:
    """How the outputs of a network are decoded; part of its model card.

    format: of the outputs. outputs: name of the output tensor by role: `predictions` (all values in
    one tensor), or `boxes`, `scores`, `labels`, `count`, `priors`. strides: of the grids of yolox.
    decoded: whether the boxes of yolox or ssd need no decoding. channels_first: whether `predictions` of
    yolov8 is (1, 4 + C, N) instead of (1, N, 4 + C). objectness: whether yolov8 has an objectness score
    before the class scores. scores: whether class scores are probabilities, or logits of a sigmoid or
    softmax. background: position of the class without an object. boxes: order of the values of a box.
    units: of boxes. variances: factors of ssd's offsets for centres and sizes. rows: meaning of the
    columns of `predictions` of nms. first_class: number of the first class in `labels`.
    """

    format: Format
    outputs: dict[str, str]
    strides: tuple[int, ...] = (8, 16, 32)
    decoded: bool = False
    channels_first: bool = True
    objectness: bool = False
    scores: Literal["probabilities", "sigmoid", "softmax"] = "probabilities"
    background: Literal["none", "first", "last"] = "none"
    boxes: Literal["xyxy", "yxyx", "cxcywh"] = "cxcywh"
    units: Units = "pixels"
    variances: tuple[float, float] = field(default=(0.1, 0.2))
    rows: Literal[
        "box_score_class", "batch_box_class_score", "image_class_score_box", "box_score"
    ] = "box_score_class"
    first_class: int = 0


def decode(
    outputs: Outputs, settings: DecoderSettings, size: tuple[int, int], min_score: float
) -> Decoded:
    """Boxes with at least min_score, in no particular order, before suppression.

    outputs: of one image, by name. size: height and width of the network's image. Boxes whose values are
    not finite are dropped.
    """
    by_role = {role: np.asarray(outputs[name]) for role, name in settings.outputs.items()}
    boxes, scores, labels = _DECODERS[settings.format](by_role, settings, size, min_score)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & (labels >= 0)
    kept = np.flatnonzero(finite & (scores >= min_score))
    return (
        boxes[kept].astype(np.float32),
        np.clip(scores[kept], 0.0, 1.0).astype(np.float32),
        labels[kept].astype(np.int64),
    )


def grid_cells(size: tuple[int, int], strides: tuple[int, ...]) -> int:
    """Number of cells of the grids of all strides."""
    return sum((size[0] // s) * (size[1] // s) for s in strides)


def decode_yolox(
    outputs: Outputs, settings: DecoderSettings, size: tuple[int, int], min_score: float
) -> Decoded:
    """predictions (1, A, 5 + C): x y w h, objectness, class scores; all scores are probabilities.

    Offsets are relative to the cell in strides, sizes are logarithms in strides (section 2.1).
    """
    rows = outputs["predictions"][0].astype(np.float32)
    scores, labels = _best(rows[:, 5:] * rows[:, 4:5])
    chosen = np.flatnonzero(scores >= min_score)
    boxes = rows[chosen, :4]
    if not settings.decoded:
        cells, strides = _grid(size, settings.strides)
        centres = (boxes[:, :2] + cells[chosen]) * strides[chosen, None]
        sides = np.exp(np.minimum(boxes[:, 2:], MAX_LOG_SIZE)) * strides[chosen, None]
        boxes = np.concatenate([centres, sides], axis=1)
    return _corners(boxes, settings, size), scores[chosen], labels[chosen]


def decode_yolov8(
    outputs: Outputs, settings: DecoderSettings, size: tuple[int, int], min_score: float
) -> Decoded:
    """predictions (1, 4 + C, N) or (1, N, 4 + C), or with an objectness score before the classes."""
    rows = outputs["predictions"][0].astype(np.float32)
    rows = rows.T if settings.channels_first else rows
    classes = rows[:, 5:] * rows[:, 4:5] if settings.objectness else rows[:, 4:]
    scores, labels = _best(classes)
    chosen = np.flatnonzero(scores >= min_score)
    return _corners(rows[chosen, :4], settings, size), scores[chosen], labels[chosen]


def decode_detr(
    outputs: Outputs, settings: DecoderSettings, size: tuple[int, int], min_score: float
) -> Decoded:
    """scores (1, Q, C or C + 1) and boxes (1, Q, 4) of Q queries."""
    scores, labels = _best(_probabilities(outputs["scores"][0], settings))
    return _corners(outputs["boxes"][0].astype(np.float32), settings, size), scores, labels


def decode_ssd(
    outputs: Outputs, settings: DecoderSettings, size: tuple[int, int], min_score: float
) -> Decoded:
    """boxes (1, A, 4), scores (1, A, C or C + 1) and priors (1, A, 4), cx cy w h from 0 to 1.

    Offsets are relative to the size of the prior, sizes are logarithms relative to it, both divided by
    the variances (section 2.2).
    """
    scores, labels = _best(_probabilities(outputs["scores"][0], settings))
    chosen = np.flatnonzero(scores >= min_score)
    boxes = outputs["boxes"][0].astype(np.float32)[chosen]
    if not settings.decoded:
        priors = outputs["priors"][0].astype(np.float32)[chosen]
        centres = priors[:, :2] + boxes[:, :2] * np.float32(settings.variances[0]) * priors[:, 2:]
        log_sizes = np.minimum(boxes[:, 2:] * np.float32(settings.variances[1]), MAX_LOG_SIZE)
        boxes = np.concatenate([centres, priors[:, 2:] * np.exp(log_sizes)], axis=1)
    return _corners(boxes, settings, size), scores[chosen], labels[chosen]


def decode_nms(
    outputs: Outputs, settings: DecoderSettings, size: tuple[int, int], min_score: float
) -> Decoded:
    """Boxes after suppression: rows of one tensor, or boxes, scores, labels and possibly a count."""
    if "predictions" in outputs:
        rows = outputs["predictions"].astype(np.float32)
        rows = rows.reshape(-1, rows.shape[-1])
        if settings.rows == "image_class_score_box":
            boxes, scores, classes = rows[:, 3:7], rows[:, 2], rows[:, 1]
            scores = np.where(rows[:, 0] == 0, scores, -1.0)  # a negative number ends the list
        elif settings.rows == "batch_box_class_score":
            boxes, classes, scores = rows[:, 1:5], rows[:, 5], rows[:, 6]
            scores = np.where(rows[:, 0] == 0, scores, -1.0)
        elif settings.rows == "box_score":
            boxes, scores = rows[:, :4], rows[:, 4]
            classes = outputs["labels"].reshape(-1)
        else:
            boxes, scores, classes = rows[:, :4], rows[:, 4], rows[:, 5]
    else:
        boxes = outputs["boxes"].astype(np.float32).reshape(-1, 4)
        scores = outputs["scores"].astype(np.float32).reshape(-1)
        classes = outputs["labels"].reshape(-1)
    labels = np.rint(np.nan_to_num(classes.astype(np.float64), nan=-1.0)).astype(np.int64)
    if "count" in outputs:
        count = int(np.nan_to_num(np.float64(outputs["count"].reshape(-1)[0])))
        scores = np.where(np.arange(len(scores)) < count, scores, -1.0)
    return _corners(boxes, settings, size), scores, labels - settings.first_class


_DECODERS: dict[str, Callable[[Outputs, DecoderSettings, tuple[int, int], float], Decoded]] = {
    "yolox": decode_yolox,
    "yolov8": decode_yolov8,
    "detr": decode_detr,
    "ssd": decode_ssd,
    "nms": decode_nms,
}


def _best(scores: Float) -> tuple[Float, NDArray[np.int64]]:
    """Highest score (N,) and its class (N,) of scores (N, C)."""
    labels = scores.argmax(axis=1)
    return scores[np.arange(len(scores)), labels], labels.astype(np.int64)


def _probabilities(values: NDArray[Any], settings: DecoderSettings) -> Float:
    """Class probabilities (N, C) without the background class."""
    values = values.astype(np.float32)
    if settings.scores == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        values = powers / powers.sum(axis=1, keepdims=True)
    elif settings.scores == "sigmoid":
        values = (1.0 / (1.0 + np.exp(-np.clip(values, -80.0, 80.0)))).astype(np.float32)
    if settings.background == "first":
        return values[:, 1:]
    return values[:, :-1] if settings.background == "last" else values


def _corners(boxes: Float, settings: DecoderSettings, size: tuple[int, int]) -> Float:
    """Boxes (N, 4) as x1 y1 x2 y2 in pixels of the network's image."""
    if settings.boxes == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    elif settings.boxes == "cxcywh":
        half = boxes[:, 2:] / 2
        boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    if settings.units == "normalised":
        boxes = boxes * np.array([size[1], size[0]] * 2, np.float32)
    return np.asarray(boxes, np.float32)


def _grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[Float, Float]:
    """Column and row (A, 2) of each cell in its grid, and its stride (A,), in the network's order."""
    cells, sizes = [], []
    for stride in strides:
        rows, columns = size[0] // stride, size[1] // stride
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        sizes.append(np.full(rows * columns, stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)
