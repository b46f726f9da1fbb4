"""Training data of the segmentation network: augmented crops of rendered views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multimodal_perception.configuration import UserError
from multimodal_perception.images.thermal_normalization import quartile_gamma
from multimodal_perception.networks.efficientnet_lite import normalise
from multimodal_perception.npz_reader import CONTENT_ERRORS, read_npz
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.real_images import RealImage
from multimodal_perception.training.segmentation.camera_style import match_colours, vary_camera

# Width of the views in memory and of the network input, pixels.
STORED_WIDTH = 512
INPUT_WIDTH = 448
# A power is applied to thermal images that moves their upper quartile to this value.
THERMAL_QUARTILE = 0.5
# Rare classes of small objects: some of the crops are drawn around a pixel of them, in views with at
# least RARE_PIXELS pixels of the class.
RARE_CLASSES = ("person", "cyclist", "pole", "sidewalk")
RARE_PIXELS = 40
# Crops are drawn at random; an epoch is a number of them.
CROPS_PER_EPOCH = 4096
# Label of pixels outside of the image.
PADDING = 254


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training views.

    Attributes:
        scale_range: Smallest and largest random scale of a crop, relative to the input size of the
            network. Change it when objects appear at more distances than in the training data.
        max_misalignment: Largest random shift of the thermal image against the visible one in each
            axis, which imitates errors of the extrinsics. Increase it for poorly calibrated cameras.
        exposure_variation: Strength of the random changes of gain, gamma and offset of visible images;
            0 changes nothing. Increase it for cameras with strongly varying exposure.
        thermal_variation: Strength of the random changes of gain, gamma and offset of thermal images; 0
            changes nothing. Increase it for thermal cameras with unstable gain control.
        night_fraction: Fraction of the visible images that are made dark, noisy and blurred as at an
            unlit night. Increase it for vehicles that mostly drive at night.
        thermal_view_fraction: Fraction of the samples in the view of the thermal camera, without a
            visible image. Increase it when the network often runs on thermal images only.
        rare_class_fraction: Fraction of the samples centred near a pixel of a random class of
            RARE_CLASSES, which random crops seldom contain. Increase it when small objects are missed.
        camera_variation: Strength of the random changes of tone curve, white balance, saturation,
            sharpness, noise and compression of visible images; 0 changes nothing. Increase it when the
            network fails on images of other cameras.
        real_fraction: Fraction of the crops that are from real images, if there are any. Increase it
            when real images are more important than simulated ones.
        colour_match_fraction: Fraction of the rendered crops that get the colours of a random real
            image. Increase it when the real images are of the cameras that the network will be used
            with.
    """

    scale_range: tuple[float, float] = (0.75, 1.5)
    max_misalignment: float = field(default=1.0, metadata={"min": 0.0, "max": 50.0, "unit": "px"})
    exposure_variation: float = field(default=0.35, metadata={"min": 0.0, "max": 1.0})
    thermal_variation: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    night_fraction: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    thermal_view_fraction: float = field(default=0.15, metadata={"min": 0.0, "max": 1.0})
    rare_class_fraction: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    camera_variation: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    real_fraction: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    colour_match_fraction: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})


@dataclass(frozen=True)
class View:
    """One labelled view in memory.

    visible: (H, W, 3) uint8, or None in the view of the thermal camera. thermal: (H, W) float16 in
    [0, 1], valid where thermal_mask (H, W) uint8 is 1. labels: (H, W) uint8.
    """

    visible: NDArray[np.uint8] | None
    thermal: NDArray[np.float16]
    thermal_mask: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Inputs of RgbThermalSegmentation for B samples, and labels (B, H, W) int64.

    visible: (B, 3, H, W) float32. thermal, visible_mask, thermal_mask: (B, 1, H, W) float32.
    """

    visible: Tensor
    thermal: Tensor
    visible_mask: Tensor
    thermal_mask: Tensor
    labels: Tensor


def read_drives(
    paths: Sequence[Path], second_input: str = "thermal"
) -> tuple[list[View], list[View]]:
    """Views of the cameras and views of the thermal cameras, from files written by render_drives.

    second_input: "thermal" or "lidar". Raises UserError for a file that does not contain it.
    """
    views, thermal_views = [], []
    for path in paths:
        try:
            shard = read_npz(path)
            for i in range(len(shard["labels"])):
                width = shard["labels"].shape[2]
                factor = STORED_WIDTH / width
                x, thermal_mask = shard[second_input][i], shard[f"{second_input}_valid"][i]
                if second_input == "thermal":
                    thermal = shard["own_thermal"][i].astype(np.float32)
                    power = quartile_gamma(thermal, THERMAL_QUARTILE)
                    x, thermal = x.astype(np.float32) ** power, thermal**power
                views.append(
                    resize_view(shard["visible"][i], x, thermal_mask, shard["labels"][i], factor)
                )
                labels = shard["own_labels"][i]
                if second_input == "thermal":
                    thermal_mask = np.ones(thermal.shape, np.bool_)
                    # The network input is letterboxed by height.
                    thermal_views.append(
                        resize_view(None, thermal, thermal_mask, labels, factor * 1.4)
                    )
        except CONTENT_ERRORS as error:
            raise UserError(
                f"{path}: not a drive of render_drives with {second_input}: {error}"
            ) from error
    return views, thermal_views


def resize_view(
    visible: NDArray[np.uint8] | None,
    thermal: NDArray[np.float16],
    thermal_mask: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    factor: float,
) -> View:
    """A view resized by a factor; the labels and the mask by nearest neighbour."""
    size = round(labels.shape[1] * factor), round(labels.shape[0] * factor)
    area, nearest = cv2.INTER_AREA, cv2.INTER_NEAREST
    return View(
        None if visible is None else cv2.resize(visible, size, interpolation=area),
        cv2.resize(thermal.astype(np.float32), size, interpolation=area).astype(np.float16),
        cv2.resize(thermal_mask.astype(np.uint8), size, interpolation=nearest),
        cv2.resize(labels, size, interpolation=nearest),
    )


def real_view(image: RealImage) -> View:
    """The view of a real image in the size of the rendered views, without a thermal image."""
    blank = np.zeros(image.labels.shape, np.float16)
    factor = STORED_WIDTH / image.labels.shape[1]
    return resize_view(image.pixels, blank, blank > 0, image.labels, factor)


class CropDataset(Dataset[View]):
    """Augmented random crops of camera views and of thermal camera views.

    A crop depends on (seed, epoch, index) only.
    """

    def __init__(
        self,
        views: Sequence[View],
        thermal_views: Sequence[View],
        crop_size: tuple[int, int],
        config: Augmentation,
        seed: int = 0,
        real_views: Sequence[View] = (),
    ) -> None:
        """crop_size: rows and columns. real_views: views of real_view, without a thermal image."""
        self._pools = [p for p in (views, thermal_views) if len(p)]
        self._real = list(real_views)
        if self._real:
            self._pools.append(self._real)
        self._crop_size, self._config, self._seed = crop_size, config, seed
        rare = [SEGMENTATION_CLASSES.index(n) for n in RARE_CLASSES]
        self._views_with = [
            {c: indices for c in rare if (indices := _views_with_class(pool, c))}
            for pool in self._pools
        ]
        self.epoch = 0

    def __len__(self) -> int:
        return CROPS_PER_EPOCH

    def __getitem__(self, index: int) -> View:
        rng = np.random.default_rng((self._seed, self.epoch, index))
        pool_index = self._draw_pool(rng)
        is_real = bool(self._real) and pool_index == len(self._pools) - 1
        pool, views_with = self._pools[pool_index], self._views_with[pool_index]
        centre = None
        if views_with and rng.random() < self._config.rare_class_fraction:
            label = list(views_with)[int(rng.integers(len(views_with)))]
            view = pool[views_with[label][int(rng.integers(len(views_with[label])))]]
            rows, columns = np.nonzero(view.labels == label)
            k = int(rng.integers(len(rows)))
            centre = int(columns[k]), int(rows[k])
        else:
            view = pool[int(rng.integers(len(pool)))]
        crop = augment_view(
            view, self._crop_size, self._config, rng, centre, INPUT_WIDTH / STORED_WIDTH
        )
        if crop.visible is None or is_real or not self._real:
            return crop
        if rng.random() < self._config.colour_match_fraction:
            reference = self._real[int(rng.integers(len(self._real)))].visible
            assert reference is not None
            strength = float(rng.uniform(0.3, 1.0))
            crop = replace(crop, visible=match_colours(crop.visible, reference, strength))
        return crop

    def _draw_pool(self, rng: np.random.Generator) -> int:
        """Index of the pool of a sample: camera views, views of the thermal camera or real images."""
        simulated = len(self._pools) - bool(self._real)
        if self._real and (not simulated or rng.random() < self._config.real_fraction):
            return len(self._pools) - 1
        return simulated - 1 if rng.random() < self._config.thermal_view_fraction else 0


def _views_with_class(views: Sequence[View], label: int) -> list[int]:
    """Indices of the views with at least RARE_PIXELS pixels of a class."""
    counts = [int(np.count_nonzero(v.labels == label)) for v in views]
    return [i for i, count in enumerate(counts) if count >= RARE_PIXELS]


def full_view(view: View, rows: int, columns: int) -> View:
    """A view resized to the network input; rows below the image are padding (label PADDING)."""
    factor = min(columns / view.labels.shape[1], rows / view.labels.shape[0])
    return warp_view(view, np.array([[factor, 0, 0], [0, factor, 0]]), (rows, columns))


def collate(samples: Sequence[View]) -> Batch:
    """Stack views of one size to a batch; the mask of a missing image is 0."""
    shape = samples[0].labels.shape
    blank = np.zeros((*shape, 3), np.uint8)
    visible = np.stack([blank if s.visible is None else s.visible for s in samples])
    has_visible = np.array([s.visible is not None for s in samples], np.float32)
    inside = np.stack([s.labels != PADDING for s in samples])
    mask = inside.astype(np.float32) * has_visible[:, None, None]
    labels = torch.from_numpy(np.stack([s.labels for s in samples]).astype(np.int64))
    labels[labels == PADDING] = IGNORED
    return Batch(
        normalise(torch.from_numpy(visible)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([s.thermal for s in samples]).astype(np.float32))[:, None],
        torch.from_numpy(mask)[:, None],
        torch.from_numpy(np.stack([s.thermal_mask for s in samples]).astype(np.float32))[:, None],
        labels,
    )


def warp_view(
    view: View, matrix: NDArray, crop_size: tuple[int, int], shift: NDArray | None = None
) -> View:
    """A view after an affine map (2, 3); pixels outside of the view have the label PADDING.

    crop_size: rows and columns of the result. shift: (2,) additional shift of the thermal image, pixels.
    """
    size = crop_size[1], crop_size[0]
    thermal_matrix = (
        matrix if shift is None else matrix + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
    )
    linear, nearest = cv2.INTER_LINEAR, cv2.INTER_NEAREST
    visible = view.visible
    if visible is not None:
        visible = cv2.warpAffine(visible, matrix, size, flags=linear)
    thermal = cv2.warpAffine(view.thermal.astype(np.float32), thermal_matrix, size, flags=linear)
    return View(
        visible,
        thermal.astype(np.float16),
        cv2.warpAffine(view.thermal_mask, thermal_matrix, size, flags=nearest),
        cv2.warpAffine(view.labels, matrix, size, flags=nearest, borderValue=PADDING),
    )


def augment_view(
    view: View,
    crop_size: tuple[int, int],
    config: Augmentation,
    rng: np.random.Generator,
    centre: tuple[int, int] | None,
    factor: float,
) -> View:
    """An augmented random crop of a view.

    centre: pixel (column, row) that the crop must contain, or None for any crop. factor: scale from the
    view to the network input.
    """
    rows, columns = view.labels.shape
    factor = factor * np.exp(rng.uniform(*np.log(config.scale_range)))
    margin = factor * columns - crop_size[1], factor * rows - crop_size[0]
    x, y = (-rng.uniform(min(r, 0.0), max(r, 0.0)) for r in margin)
    if centre is not None:
        offsets = (
            rng.uniform(0.25, 0.75) * side - factor * p
            for side, p in zip(crop_size[::-1], centre, strict=True)
        )
        x, y = (
            float(np.clip(v, min(-r, 0.0), max(-r, 0.0)))
            for v, r in zip(offsets, margin, strict=True)
        )
    matrix = np.array([[factor, 0.0, x], [0.0, factor, y]])
    if rng.random() < 0.5:  # mirrored
        matrix = np.array([[-1.0, 0.0, crop_size[1] - 1.0], [0.0, 1.0, 0.0]]) @ np.vstack(
            [matrix, (0, 0, 1)]
        )
    shift = rng.uniform(-config.max_misalignment, config.max_misalignment, 2)
    out = warp_view(view, matrix, crop_size, shift)
    visible = (
        None if out.visible is None else _vary_exposure(out.visible, config.exposure_variation, rng)
    )
    if visible is not None and config.camera_variation > 0:
        visible = vary_camera(visible, config.camera_variation, rng)
    if visible is not None and rng.random() < config.night_fraction:
        visible = _simulate_night(visible, rng)
    return View(
        visible,
        _vary_thermal(out.thermal, config.thermal_variation, rng),
        out.thermal_mask,
        out.labels,
    )


def _vary_exposure(
    image: NDArray[np.uint8], amount: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    gain = np.exp(rng.uniform(-amount, amount)) * np.exp(rng.normal(0, 0.08 * amount, 3))
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    curve = gain * levels ** np.exp(rng.uniform(-amount, amount)) + rng.uniform(-0.1, 0.1) * amount
    table = np.clip(255 * curve, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(image, table), np.uint8)


def _simulate_night(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image as at an unlit night: motion blur along the rows, dark, noisy."""
    length = int(rng.integers(1, 6))
    signal = cv2.blur(image, (length, 1)).astype(np.float32)
    signal *= np.exp(rng.uniform(np.log(0.1), np.log(0.7)))
    noise = rng.uniform(1.0, 9.0) * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(signal + noise, 0, 255), np.uint8)


def _vary_thermal(
    image: NDArray[np.float16], amount: float, rng: np.random.Generator
) -> NDArray[np.float16]:
    x = image.astype(np.float32)
    x = np.exp(rng.uniform(-amount, amount)) * x + rng.uniform(-amount, amount) * 0.4
    x = np.clip(x, 0, 1) ** np.exp(rng.uniform(-amount, amount))
    if rng.random() < 0.3:  # 8-bit images of cameras with gain control
        x = np.rint(x * 255) / 255
    x += rng.normal(0, 0.01 * rng.random(), x.shape).astype(np.float32)
    return np.clip(x, 0, 1).astype(np.float16)
