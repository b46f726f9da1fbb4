"""Batches for the segmentation network: rendered frames varied, the other image in its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.configuration import UserError
from multimodal_perception.images.thermal_normalization import anchoring_power
from multimodal_perception.networks.efficientnet_lite import normalise
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES

# Frames are kept at this width; the network works at INPUT_WIDTH.
STORED_WIDTH = 512
INPUT_WIDTH = 448
# Where the upper quartile of a thermal image is brought to.
THERMAL_QUARTILE = 0.5
# Small and rare, and sought for training: views with at least so many pixels of them.
SOUGHT = ("person", "cyclist", "pole", "sidewalk")
SOUGHT_PIXELS = 40


@dataclass(frozen=True)
class Augmentation:
    """How frames are varied.

    scale: smallest and largest size, of the network's own. shift: how far the other image is moved
    against the visible one at most, pixels: calibrations are not perfect. light, heat: how much
    gains and offsets vary. dark: share of visible images made dark, noisy and smeared, as unlit nights
    are. own_view: share of samples in the thermal camera's own view. seek: share of samples about a
    pixel of a class in SOUGHT, each as often: chance would rarely show them.
    """

    scale: tuple[float, float] = (0.75, 1.5)
    shift: float = field(default=1.0, metadata={"min": 0.0, "max": 50.0, "unit": "px"})
    light: float = field(default=0.35, metadata={"min": 0.0, "max": 1.0})
    heat: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    dark: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    own_view: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})
    seek: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})


@dataclass(frozen=True)
class View:
    """One labelled view in memory.

    visible: (H, W, 3) uint8, or None in the thermal camera's own view. other: (H, W) float16 in
    [0, 1] where seen (H, W) uint8 is one. labels: (H, W) uint8.
    """

    visible: NDArray[np.uint8] | None
    other: NDArray[np.float16]
    seen: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Tensors of B samples of one size, as RgbxSegmentation takes them. labels: (B, H, W) int64."""

    visible: Tensor
    other: Tensor
    visible_mask: Tensor
    other_mask: Tensor
    labels: Tensor


def read_drives(paths: Sequence[Path], other: str = "thermal") -> tuple[list[View], list[View]]:
    """Views of the cameras and the thermal cameras' own, of what render_drives wrote.

    other: thermal or lidar, what X is. Raises UserError for a file that does not hold it.
    """
    views, own = [], []
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as file:
                shard = {name: file[name] for name in file.files}
            for i in range(len(shard["labels"])):
                width = shard["labels"].shape[2]
                factor = STORED_WIDTH / width
                x, seen = shard[other][i], shard[f"{other}_seen"][i]
                if other == "thermal":
                    thermal = shard["own_thermal"][i].astype(np.float32)
                    power = anchoring_power(thermal, THERMAL_QUARTILE)
                    x, thermal = x.astype(np.float32) ** power, thermal**power
                views.append(stored(shard["visible"][i], x, seen, shard["labels"][i], factor))
                labels = shard["own_labels"][i]
                if other == "thermal":
                    seen = np.ones(thermal.shape, np.bool_)
                    # As the network will have it: letterboxed by height.
                    own.append(stored(None, thermal, seen, labels, factor * 1.4))
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise UserError(f"{path}: no drive of render_drives with {other}: {error}") from error
    return views, own


def stored(
    visible: NDArray[np.uint8] | None,
    other: NDArray[np.float16],
    seen: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    factor: float,
) -> View:
    size = round(labels.shape[1] * factor), round(labels.shape[0] * factor)
    area, nearest = cv2.INTER_AREA, cv2.INTER_NEAREST
    return View(
        None if visible is None else cv2.resize(visible, size, interpolation=area),
        cv2.resize(other.astype(np.float32), size, interpolation=area).astype(np.float16),
        cv2.resize(seen.astype(np.uint8), size, interpolation=nearest),
        cv2.resize(labels, size, interpolation=nearest),
    )


class Sampler:
    """Draws varied crops from views, and from own views of thermal cameras."""

    def __init__(
        self,
        views: Sequence[View],
        own: Sequence[View],
        crop: tuple[int, int],
        config: Augmentation,
    ) -> None:
        """crop: rows and columns."""
        self._pools = [p for p in (views, own) if len(p)]
        self._crop, self._config = crop, config
        sought = [SEGMENTATION_CLASSES.index(n) for n in SOUGHT]
        self._showing = [
            {c: found for c in sought if (found := _showing(pool, c))} for pool in self._pools
        ]

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """`size` crops."""
        return collate([self._sample(rng) for _ in range(size)])

    def _sample(self, rng: np.random.Generator) -> View:
        last = len(self._pools) - 1
        which = last if rng.random() < self._config.own_view else 0
        pool, showing = self._pools[which], self._showing[which]
        about = None
        if showing and rng.random() < self._config.seek:
            kind = list(showing)[int(rng.integers(len(showing)))]
            view = pool[showing[kind][int(rng.integers(len(showing[kind])))]]
            rows, columns = np.nonzero(view.labels == kind)
            k = int(rng.integers(len(rows)))
            about = int(columns[k]), int(rows[k])
        else:
            view = pool[int(rng.integers(len(pool)))]
        return varied(view, self._crop, self._config, rng, about, INPUT_WIDTH / STORED_WIDTH)


def _showing(views: Sequence[View], kind: int) -> list[int]:
    counts = [int(np.count_nonzero(v.labels == kind)) for v in views]
    return [i for i, count in enumerate(counts) if count >= SOUGHT_PIXELS]


def whole(view: View, rows: int, columns: int) -> View:
    """A view as the network works on it: resized to its width, below it nothing."""
    factor = min(columns / view.labels.shape[1], rows / view.labels.shape[0])
    return warped(view, np.array([[factor, 0, 0], [0, factor, 0]]), (rows, columns))


def collate(samples: Sequence[View]) -> Batch:
    """Views of one size as tensors; where a visible image is missing, its mask is 0."""
    shape = samples[0].labels.shape
    blank = np.zeros((*shape, 3), np.uint8)
    visible = np.stack([blank if s.visible is None else s.visible for s in samples])
    there = np.array([s.visible is not None for s in samples], np.float32)
    inside = np.stack([s.labels != 254 for s in samples])
    mask = inside.astype(np.float32) * there[:, None, None]
    labels = torch.from_numpy(np.stack([s.labels for s in samples]).astype(np.int64))
    labels[labels == 254] = IGNORED
    return Batch(
        normalise(torch.from_numpy(visible)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([s.other for s in samples]).astype(np.float32))[:, None],
        torch.from_numpy(mask)[:, None],
        torch.from_numpy(np.stack([s.seen for s in samples]).astype(np.float32))[:, None],
        labels,
    )


def warped(
    view: View, matrix: NDArray, crop: tuple[int, int], shift: NDArray | None = None
) -> View:
    """A view under an affine map (2, 3); outside of it labels are 254: no image there."""
    size = crop[1], crop[0]
    moved = matrix if shift is None else matrix + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
    linear, nearest = cv2.INTER_LINEAR, cv2.INTER_NEAREST
    visible = view.visible
    if visible is not None:
        visible = cv2.warpAffine(visible, matrix, size, flags=linear)
    other = cv2.warpAffine(view.other.astype(np.float32), moved, size, flags=linear)
    return View(
        visible,
        other.astype(np.float16),
        cv2.warpAffine(view.seen, moved, size, flags=nearest),
        cv2.warpAffine(view.labels, matrix, size, flags=nearest, borderValue=254),
    )


def varied(
    view: View,
    crop: tuple[int, int],
    config: Augmentation,
    rng: np.random.Generator,
    about: tuple[int, int] | None,
    factor: float,
) -> View:
    """A crop about a pixel (column, row), or about any. factor: the network's size of a stored pixel."""
    rows, columns = view.labels.shape
    factor = factor * np.exp(rng.uniform(*np.log(config.scale)))
    room = factor * columns - crop[1], factor * rows - crop[0]
    x, y = (-rng.uniform(min(r, 0.0), max(r, 0.0)) for r in room)
    if about is not None:
        at = (
            rng.uniform(0.25, 0.75) * side - factor * p
            for side, p in zip(crop[::-1], about, strict=True)
        )
        x, y = (
            float(np.clip(v, min(-r, 0.0), max(-r, 0.0))) for v, r in zip(at, room, strict=True)
        )
    matrix = np.array([[factor, 0.0, x], [0.0, factor, y]])
    if rng.random() < 0.5:  # mirrored
        matrix = np.array([[-1.0, 0.0, crop[1] - 1.0], [0.0, 1.0, 0.0]]) @ np.vstack(
            [matrix, (0, 0, 1)]
        )
    shift = rng.uniform(-config.shift, config.shift, 2)
    out = warped(view, matrix, crop, shift)
    visible = None if out.visible is None else _relit(out.visible, config.light, rng)
    if visible is not None and rng.random() < config.dark:
        visible = _darkened(visible, rng)
    return View(visible, _reheated(out.other, config.heat, rng), out.seen, out.labels)


def _relit(image: NDArray[np.uint8], amount: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    gain = np.exp(rng.uniform(-amount, amount)) * np.exp(rng.normal(0, 0.08 * amount, 3))
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    curve = gain * levels ** np.exp(rng.uniform(-amount, amount)) + rng.uniform(-0.1, 0.1) * amount
    table = np.clip(255 * curve, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(image, table), np.uint8)


def _darkened(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """As in an unlit night: smeared along the image's rows by a long shutter, dark, noisy."""
    length = int(rng.integers(1, 6))
    light = cv2.blur(image, (length, 1)).astype(np.float32)
    light *= np.exp(rng.uniform(np.log(0.1), np.log(0.7)))
    grain = rng.uniform(1.0, 9.0) * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(light + grain, 0, 255), np.uint8)


def _reheated(
    image: NDArray[np.float16], amount: float, rng: np.random.Generator
) -> NDArray[np.float16]:
    x = image.astype(np.float32)
    x = np.exp(rng.uniform(-amount, amount)) * x + rng.uniform(-amount, amount) * 0.4
    x = np.clip(x, 0, 1) ** np.exp(rng.uniform(-amount, amount))
    if rng.random() < 0.3:  # as a camera with gain control gives it
        x = np.rint(x * 255) / 255
    x += rng.normal(0, 0.01 * rng.random(), x.shape).astype(np.float32)
    return np.clip(x, 0, 1).astype(np.float16)
