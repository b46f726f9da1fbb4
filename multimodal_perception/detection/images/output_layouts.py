"""Recognition of the outputs of detection networks: which tensor is which, and how it is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.images.decoders import (
    MAX_LOG_SIZE,
    DecoderSettings,
    Format,
    Units,
    grid_cells,
)

# Sets of strides of the grids of yolox.
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
# Decoded boxes may be outside of the image by this fraction of its size.
NORMALISED_LIMIT = 2.0

Arrays = Mapping[str, NDArray[Any]]


class LayoutError(Exception):
    """Outputs that do not have the format. The message states what the format needs."""


@dataclass(frozen=True)
class Layout:
    """Decoder settings of a network, and the numbers of classes that its outputs allow.

    counts: in order of preference; empty if the outputs do not show it.
    """

    settings: DecoderSettings
    counts: tuple[int, ...]


def recognise(
    format_: Format,
    outputs: Arrays,
    size: tuple[int, int],
    class_counts: Sequence[int],
    has_priors: bool = False,
) -> Layout:
    """The layout of the outputs of a test run.

    outputs: arrays by name, of one image. size: height and width of the network's image. class_counts:
    numbers of classes of the lists that the user allows. has_priors: whether the user gave the priors of
    an ssd. Raises LayoutError.
    """
    if format_ == "yolox":
        return _recognise_yolox(outputs, size)
    if format_ == "yolov8":
        return _recognise_yolov8(outputs, class_counts)
    if format_ == "detr":
        return _recognise_detr(outputs, class_counts)
    if format_ == "ssd":
        return _recognise_ssd(outputs, class_counts, has_priors)
    return _recognise_nms(outputs)


def _recognise_yolox(outputs: Arrays, size: tuple[int, int]) -> Layout:
    """One output (1, A, 5 + C), A cells of grids with known strides."""
    for name, values in outputs.items():
        if values.ndim != 3 or values.shape[2] < 6:
            continue
        for strides in STRIDES:
            if values.shape[1] == grid_cells(size, strides):
                # Logarithms of sizes are small; decoded sizes are pixels.
                decoded = bool(values[..., 2:4].max() > MAX_LOG_SIZE)
                settings = DecoderSettings(
                    "yolox", {"predictions": name}, strides=strides, decoded=decoded
                )
                return Layout(settings, (values.shape[2] - 5,))
    cells = grid_cells(size, STRIDES[0])
    raise LayoutError(
        f"yolox needs an output [1, {cells}, 5 + classes] for images of {size[0]}x{size[1]} (strides 8, "
        "16, 32; or 8 to 64, 4 to 32, 16 and 32)"
    )


def _recognise_yolov8(outputs: Arrays, class_counts: Sequence[int]) -> Layout:
    """(1, 4 + C, N) or (1, N, 4 + C), or the rows of a network without suppression (1, N, 6)."""
    for name, values in outputs.items():
        if values.ndim != 3 or values.shape[0] < 1:
            continue
        channels_first = values.shape[1] < values.shape[2]
        channels, count = values.shape[1:] if channels_first else values.shape[:0:-1]
        if channels == 6 and not channels_first and count <= 1000:
            return _end_to_end(name, values)
        if channels < 5 or count < 2:
            continue
        sides = values[:, 2:4] if channels_first else values[..., 2:4]
        if sides.min() < 0.0:
            raise LayoutError(
                f"yolov8 needs decoded boxes, but the sizes in {name} are negative; is it yolox?"
            )
        # Versions before 8 have an objectness score, then 4 + 1 + classes.
        objectness = channels - 4 not in class_counts and channels - 5 in class_counts
        units: Units = "normalised" if _is_normalised(values) else "pixels"
        settings = DecoderSettings(
            "yolov8",
            {"predictions": name},
            channels_first=channels_first,
            objectness=objectness,
            units=units,
        )
        return Layout(settings, (channels - (5 if objectness else 4),))
    raise LayoutError(
        "yolov8 needs an output [1, 4 + classes, N], [1, N, 4 + classes], or [1, N, 6] (x1 y1 x2 y2 "
        "score class)"
    )


def _end_to_end(name: str, values: NDArray[Any]) -> Layout:
    units: Units = "normalised" if _is_normalised(values[..., :4]) else "pixels"
    settings = DecoderSettings("nms", {"predictions": name}, boxes="xyxy", units=units)
    return Layout(settings, ())


def _recognise_detr(outputs: Arrays, class_counts: Sequence[int]) -> Layout:
    """Boxes (1, Q, 4), cx cy w h from 0 to 1, and logits (1, Q, C) or with no-object (1, Q, C + 1)."""
    boxes, scores = _boxes_and_scores(outputs, "detr needs outputs [1, Q, 4] and [1, Q, classes]")
    channels = outputs[scores].shape[2]
    # With a no-object class, the scores are those of a softmax, and that class is the last one.
    has_background = channels - 1 in class_counts and channels not in class_counts
    settings = DecoderSettings(
        "detr",
        {"boxes": boxes, "scores": scores},
        scores="softmax" if has_background else "sigmoid",
        background="last" if has_background else "none",
        units="normalised" if _is_normalised(outputs[boxes]) else "pixels",
    )
    if _is_distribution(outputs[scores]) or (
        not has_background and _is_probability(outputs[scores])
    ):
        settings = replace(settings, scores="probabilities")
    return Layout(settings, (channels - int(has_background),))


def _recognise_ssd(outputs: Arrays, class_counts: Sequence[int], has_priors: bool) -> Layout:
    """Boxes (1, A, 4) and scores (1, A, C + 1), background first; priors as output or from the user."""
    need = "ssd needs outputs [1, A, 4] and [1, A, classes + 1], and priors unless the boxes are decoded"
    priors = [n for n, v in outputs.items() if "prior" in n.lower() or "anchor" in n.lower()]
    rest = {n: v for n, v in outputs.items() if n not in priors}
    boxes, scores = _boxes_and_scores(rest, need)
    count, channels = outputs[scores].shape[1:]
    roles = {"boxes": boxes, "scores": scores}
    if priors:
        if outputs[priors[0]].shape[-2:] != (count, 4):
            raise LayoutError(f"{need}; {priors[0]} has another number of rows than {boxes}")
        roles["priors"] = priors[0]
    background = (
        "none" if channels in class_counts and channels - 1 not in class_counts else "first"
    )
    distribution = _is_distribution(outputs[scores])
    probability = distribution or (background == "none" and _is_probability(outputs[scores]))
    decoded = not priors and not has_priors
    settings = DecoderSettings(
        "ssd",
        roles,
        decoded=decoded,
        scores="probabilities"
        if probability
        else "softmax"
        if background == "first"
        else "sigmoid",
        background=background,  # type: ignore[arg-type]
        boxes="xyxy" if decoded else "cxcywh",
        units="normalised" if not decoded or _is_normalised(outputs[boxes]) else "pixels",
    )
    return Layout(settings, (channels - int(background == "first"),))


def _recognise_nms(outputs: Arrays) -> Layout:
    """One tensor of rows with 5, 6 or 7 columns, or tensors of boxes, scores, labels and a count."""
    floats = {n: v for n, v in outputs.items() if v.dtype.kind == "f"}
    columns = {n: v for n, v in floats.items() if v.ndim >= 2 and v.shape[-1] in (5, 6, 7)}
    if len(outputs) <= 2 and len(columns) == 1:
        name, values = next(iter(columns.items()))
        # A row of 7 columns starts with the number of the image in the batch.
        units = _units(values[..., int(values.shape[-1] == 7) :])
        if values.shape[-1] == 5:
            labels = [n for n in outputs if n != name]
            if not labels:
                raise LayoutError(
                    "nms with rows of 5 columns needs a second output with the classes"
                )
            roles = {"predictions": name, "labels": labels[0]}
            return _rows(roles, "box_score", units)
        if values.shape[-1] == 6:
            return _rows({"predictions": name}, "box_score_class", units)
        # Four axes: DetectionOutput of OpenVINO and Caffe, normalised boxes in the last columns.
        if values.ndim == 4:
            return _rows({"predictions": name}, "image_class_score_box", "normalised")
        return _rows({"predictions": name}, "batch_box_class_score", units)
    return _separate_outputs(outputs)


def _separate_outputs(outputs: Arrays) -> Layout:
    """boxes (1, N, 4) or (N, 4), scores and labels (1, N) or (N,), and optionally a count."""
    need = (
        "nms needs one output with rows of 6 columns (x1 y1 x2 y2 score class) or 7 columns (batch x1 "
        "y1 x2 y2 class score), or outputs of boxes [N, 4], scores [N], classes [N] and optionally "
        "their count"
    )
    boxes = [n for n, v in outputs.items() if v.ndim >= 2 and v.shape[-1] == 4]
    if len(boxes) != 1:
        raise LayoutError(need)
    rows = int(np.prod(outputs[boxes[0]].shape[:-1]))
    lists = [n for n, v in outputs.items() if n != boxes[0] and v.size == rows]
    counts = [n for n, v in outputs.items() if n != boxes[0] and v.size == 1]
    if rows == 1:
        lists = [n for n in lists if n not in _named(counts, ("num", "count"))]
    labels = _named(lists, ("class", "label", "categor")) or [
        n for n in lists if outputs[n].dtype.kind in "iu"
    ]
    scores = _named([n for n in lists if n not in labels], ("score", "conf", "prob")) or [
        n for n in lists if n not in labels and outputs[n].dtype.kind == "f"
    ]
    if len(labels) != 1 or len(scores) != 1:
        raise LayoutError(need)
    roles = {"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}
    numbers = [n for n in counts if n not in roles.values()]
    if numbers:
        roles["count"] = numbers[0]
    # TensorFlow's detection API: y1 x1 y2 x2 from 0 to 1, classes from 1.
    tensorflow = boxes[0].split(":")[0] == "detection_boxes"
    settings = DecoderSettings(
        "nms",
        roles,
        boxes="yxyx" if tensorflow else "xyxy",
        units="normalised" if tensorflow else _units(outputs[boxes[0]]),
        first_class=int(tensorflow),
    )
    return Layout(settings, (90,) if tensorflow else ())


def _rows(roles: dict[str, str], rows: str, units: Units) -> Layout:
    settings = DecoderSettings("nms", roles, boxes="xyxy", units=units, rows=rows)  # type: ignore[arg-type]
    return Layout(settings, ())


def _boxes_and_scores(outputs: Arrays, need: str) -> tuple[str, str]:
    """Names of the outputs (1, N, 4) and (1, N, C)."""
    tables = {n: v for n, v in outputs.items() if v.ndim == 3}
    boxes = [n for n, v in tables.items() if v.shape[2] == 4]
    if len(boxes) > 1:
        boxes = _named(boxes, ("box", "loc", "bbox", "coord"))
    if len(boxes) != 1:
        raise LayoutError(need)
    scores = [
        n for n, v in tables.items() if n != boxes[0] and v.shape[1] == tables[boxes[0]].shape[1]
    ]
    if len(scores) > 1:
        scores = _named(scores, ("logit", "score", "class", "conf", "cls"))
    if len(scores) != 1:
        raise LayoutError(need)
    return boxes[0], scores[0]


def _named(names: Sequence[str], parts: Sequence[str]) -> list[str]:
    return [n for n in names if any(part in n.lower() for part in parts)]


def _units(boxes: NDArray[Any]) -> Units:
    return "normalised" if _is_normalised(boxes[..., :4]) and boxes.size else "pixels"


def _is_normalised(boxes: NDArray[Any]) -> bool:
    """Whether the values are fractions of the image size; of all zeros it is not known: False."""
    largest = float(np.abs(boxes.astype(np.float64)).max(initial=0.0))
    return 0.0 < largest <= NORMALISED_LIMIT


def _is_probability(values: NDArray[Any]) -> bool:
    return bool(values.min(initial=0.0) >= 0.0 and values.max(initial=0.0) <= 1.0)


def _is_distribution(values: NDArray[Any]) -> bool:
    """Whether the values of each row sum up to 1."""
    if not values.size or not _is_probability(values):
        return False
    return bool(np.abs(values.sum(axis=-1) - 1.0).max() < 0.01)
