"""Decoding of network outputs against independent references, written as plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.images.decoders import DecoderSettings, decode, grid_cells

SIZE = (64, 96)
Box = tuple[float, float, float, float, float, int]


def as_list(decoded: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[Box]:
    boxes, scores, labels = decoded
    assert boxes.dtype == np.float32 and scores.dtype == np.float32 and labels.dtype == np.int64
    rows = [
        (*map(float, b), float(s), int(k)) for b, s, k in zip(boxes, scores, labels, strict=True)
    ]
    return sorted(rows, key=lambda row: (-row[4], row[:4]))


def assert_same(decoded: tuple[np.ndarray, np.ndarray, np.ndarray], expected: list[Box]) -> None:
    found = as_list(decoded)
    expected = sorted(expected, key=lambda row: (-row[4], row[:4]))
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(
        [row[:5] for row in found], [row[:5] for row in expected], rtol=1e-4, atol=1e-3
    )
    assert [row[5] for row in found] == [row[5] for row in expected]


def corners(cx: float, cy: float, w: float, h: float) -> tuple[float, float, float, float]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(64, 96), (96, 64), (128, 160)]))
def test_yolox_grid_is_decoded_as_in_the_paper(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    classes = 3
    rows = rng.normal(0, 1, (1, grid_cells(size, (8, 16, 32)), 5 + classes)).astype(np.float32)
    rows[..., 4:] = rng.uniform(0, 1, rows[..., 4:].shape)
    expected, index = [], 0
    for stride in (8, 16, 32):
        for y in range(size[0] // stride):
            for x in range(size[1] // stride):
                row = rows[0, index].astype(float)
                index += 1
                scores = [row[4] * row[5 + k] for k in range(classes)]
                if max(scores) >= 0.5:
                    box = corners(
                        (x + row[0]) * stride,
                        (y + row[1]) * stride,
                        math.exp(row[2]) * stride,
                        math.exp(row[3]) * stride,
                    )
                    expected.append((*box, max(scores), scores.index(max(scores))))
    assert index == rows.shape[1]
    decoder = DecoderSettings("yolox", {"predictions": "out"})
    assert_same(decode({"out": rows}, decoder, size, 0.5), expected)


def test_yolox_with_decoded_boxes_and_other_strides() -> None:
    rows = np.zeros((1, grid_cells(SIZE, (16, 32)), 6), np.float32)
    rows[0, 7] = 40, 30, 20, 10, 0.8, 0.5
    decoder = DecoderSettings("yolox", {"predictions": "o"}, strides=(16, 32), decoded=True)
    assert_same(decode({"o": rows}, decoder, SIZE, 0.3), [(30, 25, 50, 35, 0.4, 0)])


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("objectness", [True, False])
@pytest.mark.parametrize("units", ["pixels", "normalised"])
def test_yolov8_rows(channels_first: bool, objectness: bool, units: str) -> None:
    rng = np.random.default_rng(3)
    rows = rng.uniform(0, 1, (40, 4 + int(objectness) + 5)).astype(np.float32)
    if units == "pixels":
        rows[:, :4] *= 50
    expected = []
    for row in rows.astype(float):
        own = row[5:] * row[4] if objectness else row[4:]
        best = int(np.argmax(own))
        box = row[:4] * ((96, 64, 96, 64) if units == "normalised" else 1)
        if own[best] >= 0.6:
            expected.append((*corners(*box), own[best], best))
    values = rows.T[None] if channels_first else rows[None]
    decoder = DecoderSettings(
        "yolov8",
        {"predictions": "o"},
        channels_first=channels_first,
        objectness=objectness,
        units=units,
    )
    assert_same(decode({"o": np.ascontiguousarray(values)}, decoder, SIZE, 0.6), expected)


@pytest.mark.parametrize("background", ["last", "none"])
def test_detr_queries(background: str) -> None:
    rng = np.random.default_rng(4)
    classes = 4 + int(background == "last")
    logits = rng.normal(0, 3, (1, 30, classes)).astype(np.float32)
    boxes = rng.uniform(0.1, 0.9, (1, 30, 4)).astype(np.float32)
    expected = []
    for row, box in zip(logits[0].astype(float), boxes[0].astype(float), strict=True):
        if background == "last":
            total = sum(math.exp(v) for v in row)
            scores = [math.exp(v) / total for v in row[:-1]]
        else:
            scores = [1 / (1 + math.exp(-v)) for v in row]
        if max(scores) >= 0.4:
            scaled = box * (96, 64, 96, 64)
            expected.append((*corners(*scaled), max(scores), scores.index(max(scores))))
    decoder = DecoderSettings(
        "detr",
        {"boxes": "b", "scores": "s"},
        scores="softmax" if background == "last" else "sigmoid",
        background=background,
        units="normalised",
    )
    assert_same(decode({"b": boxes, "s": logits}, decoder, SIZE, 0.4), expected)


@pytest.mark.parametrize("decoded", [True, False])
def test_ssd_offsets_from_priors_and_decoded_boxes(decoded: bool) -> None:
    rng = np.random.default_rng(5)
    priors = rng.uniform(0.2, 0.6, (1, 25, 4)).astype(np.float32)
    offsets = rng.normal(0, 1, (1, 25, 4)).astype(np.float32)
    logits = rng.normal(0, 2, (1, 25, 4)).astype(np.float32)
    boxes = np.sort(rng.uniform(0, 1, (25, 2, 2)), axis=1).reshape(1, 25, 4).astype(np.float32)
    expected = []
    for i in range(25):
        total = sum(math.exp(v) for v in logits[0, i].astype(float))
        scores = [math.exp(v) / total for v in logits[0, i, 1:].astype(float)]
        if decoded:
            corner = boxes[0, i].astype(float)
        else:
            px, py, pw, ph = priors[0, i].astype(float)
            dx, dy, dw, dh = offsets[0, i].astype(float)
            corner = corners(
                px + 0.1 * dx * pw,
                py + 0.1 * dy * ph,
                pw * math.exp(0.2 * dw),
                ph * math.exp(0.2 * dh),
            )
        if max(scores) >= 0.5:
            box = np.array(corner) * (96, 64, 96, 64)
            expected.append((*box, max(scores), scores.index(max(scores))))
    decoder = DecoderSettings(
        "ssd",
        {"boxes": "b", "scores": "s", "priors": "p"},
        decoded=decoded,
        scores="softmax",
        background="first",
        boxes="xyxy" if decoded else "cxcywh",
        units="normalised",
    )
    arrays = {"b": boxes if decoded else offsets, "s": logits, "p": priors}
    assert_same(decode(arrays, decoder, SIZE, 0.5), expected)


DETECTIONS = [(4.0, 6.0, 30.0, 40.0, 0.9, 2), (10.0, 8.0, 20.0, 30.0, 0.6, 0)]


def nms_outputs(layout: str) -> tuple[dict[str, np.ndarray], DecoderSettings]:
    """The two DETECTIONS and an empty row in one of the common layouts."""
    boxes = np.array([d[:4] for d in DETECTIONS] + [(0, 0, 0, 0)], np.float32)
    scores = np.array([d[4] for d in DETECTIONS] + [0.0], np.float32)
    labels = np.array([d[5] for d in DETECTIONS] + [0])
    scale = np.array([96, 64, 96, 64], np.float32)
    zeros = np.zeros((3, 1), np.float32)
    one = {"predictions": "o"}
    if layout == "rows of 6":
        rows = np.column_stack([boxes, scores, labels]).astype(np.float32)
        return {"o": rows[None]}, DecoderSettings("nms", one, boxes="xyxy")
    if layout == "rows of 7":
        rows = np.column_stack([zeros, boxes, labels, scores]).astype(np.float32)
        return {"o": rows}, DecoderSettings("nms", one, boxes="xyxy", rows="batch_box_class_score")
    if layout == "detection output":
        rows = np.column_stack([zeros, labels + 1, scores, boxes / scale]).astype(np.float32)
        rows[2, 0] = -1  # end of the list
        rows[2, 2] = 0.99
        decoder = DecoderSettings("nms", one, boxes="xyxy", units="normalised", first_class=1,
                                  rows="image_class_score_box")  # fmt: skip
        return {"o": rows[None, None]}, decoder
    if layout == "rows of 5":
        rows = np.column_stack([boxes, scores]).astype(np.float32)
        roles = {"predictions": "o", "labels": "k"}
        return {"o": rows[None], "k": labels[None]}, DecoderSettings(
            "nms", roles, boxes="xyxy", rows="box_score"
        )
    roles = {"boxes": "b", "scores": "s", "labels": "k"}
    if layout == "tensorflow":
        numbers = (labels + 1.0)[None].astype(np.float32)
        arrays = {"b": (boxes / scale)[None][..., [1, 0, 3, 2]], "s": scores[None], "k": numbers,
                  "n": np.array([2.0], np.float32)}  # fmt: skip
        arrays["s"][0, 2] = 0.99  # beyond the count
        return arrays, DecoderSettings("nms", {**roles, "count": "n"}, boxes="yxyx",
                                       units="normalised", first_class=1)  # fmt: skip
    arrays = {
        "b": boxes[None],
        "s": scores[None],
        "k": labels[None],
        "n": np.array([[2]], np.int32),
    }
    return arrays, DecoderSettings("nms", {**roles, "count": "n"}, boxes="xyxy")


LAYOUTS = ("rows of 6", "rows of 7", "detection output", "rows of 5", "tensorflow", "efficient nms")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_networks_with_suppression(layout: str) -> None:
    arrays, decoder = nms_outputs(layout)
    assert_same(decode(arrays, decoder, SIZE, 0.3), DETECTIONS)


def test_values_that_are_not_finite_give_no_boxes() -> None:
    rows = np.zeros((1, grid_cells(SIZE, (8, 16, 32)), 6), np.float32)
    rows[0, :3, 4:] = 1.0
    rows[0, 0, 0] = np.nan
    rows[0, 1, 2] = 1e30  # the exponential would overflow
    decoder = DecoderSettings("yolox", {"predictions": "o"})
    boxes, scores, _ = decode({"o": rows}, decoder, SIZE, 0.5)
    assert len(boxes) == 2 and np.isfinite(boxes).all() and np.isfinite(scores).all()
    nms = np.array([[[0, 0, 9, 9, 0.9, np.nan], [0, 0, 9, 9, np.inf, 1]]], np.float32)
    decoder = DecoderSettings("nms", {"predictions": "o"}, boxes="xyxy")
    assert not len(decode({"o": nms}, decoder, SIZE, 0.5)[0])
