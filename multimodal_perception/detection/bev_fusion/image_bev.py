"""Image features in the bird's-eye view and at points, from any number of images.

Each cell of a grid on the ground, at several heights, is projected into every image (as in Simple-BEV,
Harley et al. 2023). The features that it samples there are weighted with the probability that the
surface which the pixel shows is at the cell's range (as in FB-BEV, Li et al. 2023), according to the
range distribution that the image network predicts. The contributions of all images are added and
divided by the number of images that show the cell. The result does not depend on the order of the
images and no array has a size that depends on their number.

Ranges are Euclidean distances from the camera, not depths along the optical axis, so that fisheye
images beyond 90 degrees work as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import (
    DEPTH_STRIDE,
    FEATURE_STRIDE,
    IMAGE_MODALITIES,
    PAINT_CHANNELS,
    BevFusionNetworkConfig,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.camera_kernels import (
    EQUIDISTANT,
    camera_parameters,
    project_point,
)
from multimodal_perception.geometry.cameras import MIN_DEPTH
from multimodal_perception.kernels import njit
from multimodal_perception.pointcloud.ground_segmentation import GroundModel

# Rows of the lift grid, and points, that one task of a thread pool computes.
ROWS_PER_TASK, POINTS_PER_TASK = 16, 2048
# Sampled weights below this are rounding errors of a probability; their features are not read.
MIN_WEIGHT = 1e-6


@dataclass(frozen=True)
class FrameImage:
    """One image of a frame with the outputs of its network.

    modality: key of IMAGE_MODALITIES. view: camera model of the scaled image and its pose. features:
    (h, w, C) float32 at FEATURE_STRIDE. ranges: (h / 2, w / 2, D) float32 at DEPTH_STRIDE, probability
    of each range bin. paint: (h / 2, w / 2, PAINT_CHANNELS) float32, class-group scores of a 2D network,
    then 1 in cells within the image (see painting.paint_grid); None without a 2D network.
    """

    modality: str
    view: ImageView
    features: NDArray[np.float32]
    ranges: NDArray[np.float32]
    paint: NDArray[np.float32] | None = None

    @cached_property
    def cumulative(self) -> NDArray[np.float32]:
        """(h / 2, w / 2, D): probability that the surface is in a range bin or a nearer one."""
        return np.cumsum(self.ranges, axis=2, dtype=np.float32)

    @cached_property
    def camera(self) -> NDArray[np.float64]:
        """Parameters of the camera model for the kernels."""
        return camera_parameters(self.view.model)


@dataclass(frozen=True)
class ImageSet:
    """All images of a frame.

    images: in any order. ground: surface that heights are measured from; None for z = 0. masked_boxes:
    (H, 7) in base_link, z above the ground, of objects that training pasted into the point cloud and
    that the images do not show: points in them, and the cells of the lift grid below them, count as not
    visible. base_from_grid: (4, 4), transform of the augmented grid (may mirror and scale); None for
    the identity.
    """

    images: Sequence[FrameImage] = ()
    ground: GroundModel | None = None
    masked_boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 7), np.float32))
    base_from_grid: NDArray[np.float64] | None = None

    def in_base(
        self, points: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Points (N, 3) of the grid, z above the ground, in base_link; and which are masked (N,)."""
        moved = np.asarray(points, np.float32)
        if self.base_from_grid is not None:
            moved = poses.transform_points(self.base_from_grid, moved).astype(np.float32)
        masked = _in_any_box(moved, np.asarray(self.masked_boxes, np.float32))
        if self.ground is not None:
            moved = moved.copy()
            moved[:, 2] += self.ground.at(moved[:, 0], moved[:, 1])
        return moved, masked


def lift_images(
    images: ImageSet, config: BevFusionNetworkConfig, executor: Executor | None = None
) -> NDArray[np.float32]:
    """Features of all images in the cells of the lift grid: (G * G, config.lift_channels) float32.

    G = config.lift_size; cells in the order row * G + column, rows run along y. Channels of each
    modality, means over the images and heights that show the cell: features multiplied by the weight
    (C), where the weight is the probability that the surface is at the cell's range; the weight at each
    height (mean over images); probability that the surface is nearer than the cell; 1 if any image shows
    the cell. After both modalities, the mean over all images and heights of the painting multiplied by
    the weight (PAINT_CHANNELS), if config.painting. Zeros in cells that no image shows.

    executor: threads for blocks of rows; the result does not depend on it.
    """
    c = config
    result = np.zeros((c.lift_size**2, c.lift_channels), np.float32)
    if not images.images:
        return result
    positions, masked = images.in_base(lift_positions(c))
    positions = positions.reshape(c.lift_size**2, len(c.lift_heights), 3)
    masked = masked.reshape(positions.shape[:2])
    counts = np.zeros((c.lift_size**2, len(IMAGE_MODALITIES), len(c.lift_heights)), np.float32)
    prepared = [_Prepared.of(image, c) for image in images.images]

    def block(first: int) -> None:
        rows = slice(first, first + ROWS_PER_TASK * c.lift_size)
        for p in prepared:
            _lift(
                positions[rows],
                masked[rows],
                *p.arrays,
                p.offset,
                len(IMAGE_MODALITIES) * c.modality_channels,
                np.float32(c.lift_cell / 2),
                result[rows],
                counts[rows, p.index],
            )
        _normalise(result[rows], counts[rows], c.modality_channels, c.channels)

    firsts = range(0, c.lift_size**2, ROWS_PER_TASK * c.lift_size)
    list(map(block, firsts) if executor is None else executor.map(block, firsts))
    return result


def sample_images(
    points: NDArray[np.floating],
    images: ImageSet,
    config: BevFusionNetworkConfig,
    executor: Executor | None = None,
) -> NDArray[np.float32]:
    """Features of all images at points: (N, 2 * config.sample_channels) float32.

    points: (N, 3) in the frame of the grid, z above the ground. Channels of each modality: mean over
    the images that show the point of the features (C) and of the probability that the visible surface
    is at the point's range, then 1 if any image shows the point. Zeros otherwise. executor: threads for
    blocks of points; the result does not depend on it.
    """
    c = config
    result = np.zeros((len(points), len(IMAGE_MODALITIES) * c.sample_channels), np.float32)
    if not images.images or not len(points):
        return result
    positions, masked = images.in_base(points)
    prepared = [_Prepared.of(image, c) for image in images.images]

    def block(first: int) -> None:
        rows = slice(first, first + POINTS_PER_TASK)
        for p in prepared:
            offset, half_cell = p.index * c.sample_channels, np.float32(c.lift_cell / 2)
            _sample(positions[rows], masked[rows], *p.arrays, offset, half_cell, result[rows])
        for k in range(len(IMAGE_MODALITIES)):
            offset = k * c.sample_channels
            _normalise_samples(result[rows, offset : offset + c.sample_channels])

    firsts = range(0, len(points), POINTS_PER_TASK)
    list(map(block, firsts) if executor is None else executor.map(block, firsts))
    return result


@dataclass(frozen=True)
class _Prepared:
    """Arguments of the kernels for one image. index: of the modality; offset: its first channel."""

    index: int
    offset: int
    arrays: tuple[NDArray, ...]

    @classmethod
    def of(cls, image: FrameImage, config: BevFusionNetworkConfig) -> _Prepared:
        h, w, _ = image.features.shape
        if (h // 2, w // 2) != image.ranges.shape[:2] or image.ranges.shape[2] != config.range_bins:
            raise ValueError(f"ranges {image.ranges.shape} do not fit features {(h, w)}")
        index = IMAGE_MODALITIES.index(image.modality)
        paint = image.paint
        if paint is None or not config.painting:
            paint = np.zeros((1, 1, 0), np.float32)
        elif paint.shape[:2] != image.ranges.shape[:2] or paint.shape[2] != PAINT_CHANNELS:
            raise ValueError(f"paint {paint.shape} does not fit features {(h, w)}")
        arrays = (
            image.camera,
            poses.inverse(image.view.base_from_optical),
            np.ascontiguousarray(image.features, np.float32),
            image.cumulative,
            np.ascontiguousarray(paint, np.float32),
            config.range_edges,
        )
        return cls(index, index * config.modality_channels, arrays)


def lift_positions(config: BevFusionNetworkConfig) -> NDArray[np.float32]:
    """Positions (G * G * heights, 3) of the cells' centres at each height, z above the ground."""
    c = config
    centres = (np.arange(c.lift_size) + 0.5) * c.lift_cell - c.pillars.half_extent
    positions = np.empty((c.lift_size, c.lift_size, len(c.lift_heights), 3), np.float32)
    positions[..., 0] = centres[None, :, None]
    positions[..., 1] = centres[:, None, None]
    positions[..., 2] = c.lift_heights
    return positions.reshape(-1, 3)


@njit(nogil=True)
def _in_any_box(points, boxes):  # type: ignore[no-untyped-def]
    """(N,) whether a point is inside a box (the height of which is extended by 0.3 m)."""
    result = np.zeros(len(points), np.bool_)
    for b in range(len(boxes)):
        c, s = np.cos(boxes[b, 6]), np.sin(boxes[b, 6])
        half = boxes[b, 3:6] / 2
        for i in range(len(points)):
            dx, dy = points[i, 0] - boxes[b, 0], points[i, 1] - boxes[b, 1]
            along, across = c * dx + s * dy, c * dy - s * dx
            if abs(along) <= half[0] and abs(across) <= half[1]:
                result[i] |= abs(points[i, 2] - boxes[b, 2]) <= half[2] + 0.3
    return result


@njit(nogil=True)
def _cell(position, stride, size):  # type: ignore[no-untyped-def]
    """Lower index, upper index and fraction for linear interpolation at a pixel coordinate."""
    q = (position + 0.5) / stride - 0.5
    low = int(np.floor(q))
    fraction = np.float32(q - low)
    return max(low, 0), min(low + 1, size - 1), fraction


@njit(nogil=True)
def _bin(distance, edges):  # type: ignore[no-untyped-def]
    """Bin of a range, and the fraction of the bin that is nearer; the last bin has fraction 0."""
    last = len(edges) - 1
    if distance >= edges[last]:
        return last, np.float32(0.0)
    k = 0
    if distance > edges[0]:
        step = np.log(edges[last] / edges[0]) / last
        k = min(int(np.log(distance / edges[0]) / step), last - 1)
        if distance < edges[k]:
            k -= 1
        elif distance >= edges[k + 1]:
            k += 1
    low = edges[k] if k else np.float32(0.0)
    return k, np.float32((distance - low) / (edges[k + 1] - low))


@njit(nogil=True)
def _surface(cumulative, u, v, distance, half_cell, edges):  # type: ignore[no-untyped-def]
    """Probabilities that the surface at a pixel is at a range, and that it is nearer.

    At the range: within half a cell or half a bin of it, whichever is larger.
    """
    height, width, _ = cumulative.shape
    left, right, fx = _cell(u, DEPTH_STRIDE, width)
    top, bottom, fy = _cell(v, DEPTH_STRIDE, height)
    half_bin = 0.5 * distance * (edges[1] / edges[0] - 1.0)
    tolerance = max(half_cell, half_bin)
    if distance - tolerance >= edges[len(edges) - 1]:
        tolerance = 0.0
    near, near_fraction = _bin(distance - tolerance, edges)
    far, far_fraction = _bin(distance + tolerance, edges)
    one = np.float32(1.0)
    before, until = np.float32(0.0), np.float32(0.0)
    for k in range(4):
        row, wy = (bottom, fy) if k & 2 else (top, one - fy)
        column, wx = (right, fx) if k & 1 else (left, one - fx)
        pixel, weight = cumulative[row, column], wy * wx
        low = pixel[near - 1] if near else np.float32(0.0)
        before += weight * (low + near_fraction * (pixel[near] - low))
        low = pixel[far - 1] if far else np.float32(0.0)
        until += weight * (low + far_fraction * (pixel[far] - low))
    return until - before, before


@njit(nogil=True)
def _add(values, u, v, stride, weight, sums, offset):  # type: ignore[no-untyped-def]
    """Add weight times a map (h, w, C), interpolated at a pixel, to sums[offset:offset + C]."""
    height, width, channels = values.shape
    left, right, fx = _cell(u, stride, width)
    top, bottom, fy = _cell(v, stride, height)
    one = np.float32(1.0)
    w00, w01 = (one - fy) * (one - fx) * weight, (one - fy) * fx * weight
    w10, w11 = fy * (one - fx) * weight, fy * fx * weight
    a, b = values[top, left], values[top, right]
    c, d = values[bottom, left], values[bottom, right]
    for k in range(channels):
        sums[offset + k] += w00 * a[k] + w01 * b[k] + w10 * c[k] + w11 * d[k]


@njit(nogil=True)
def _depth(t, position):  # type: ignore[no-untyped-def]
    """Depth of a position along the optical axis."""
    return t[2, 0] * position[0] + t[2, 1] * position[1] + t[2, 2] * position[2] + t[2, 3]


@njit(nogil=True)
def _lift(  # type: ignore[no-untyped-def]
    positions,
    masked,
    camera,
    optical_from_base,
    features,
    cumulative,
    paint,
    edges,
    offset,
    paint_offset,
    half_cell,
    sums,
    counts,
):
    """Add one image to the sums (N, K) and counts (N, heights) of cells (N, heights, 3)."""
    t = optical_from_base
    channels, heights = features.shape[2], positions.shape[1]
    for i in range(len(positions)):
        # The positions of a cell are on a line: if both ends are behind the camera, all are.
        behind = _depth(t, positions[i, 0]) <= MIN_DEPTH
        behind = behind and _depth(t, positions[i, heights - 1]) <= MIN_DEPTH
        if behind and camera[0] != EQUIDISTANT:
            continue
        for h in range(heights):
            if masked[i, h]:
                continue
            px, py, pz = positions[i, h, 0], positions[i, h, 1], positions[i, h, 2]
            x = t[0, 0] * px + t[0, 1] * py + t[0, 2] * pz + t[0, 3]
            y = t[1, 0] * px + t[1, 1] * py + t[1, 2] * pz + t[1, 3]
            z = t[2, 0] * px + t[2, 1] * py + t[2, 2] * pz + t[2, 3]
            u, v, visible = project_point(camera, x, y, z)
            if not visible:
                continue
            counts[i, h] += np.float32(1.0)
            distance = np.sqrt(x * x + y * y + z * z)
            weight, nearer = _surface(cumulative, u, v, distance, half_cell, edges)
            sums[i, offset + channels + h] += weight
            sums[i, offset + channels + heights] += nearer
            if weight < MIN_WEIGHT:
                continue
            _add(features, u, v, FEATURE_STRIDE, weight, sums[i], offset)
            if paint.shape[2]:
                _add(paint, u, v, DEPTH_STRIDE, weight, sums[i], paint_offset)


@njit(nogil=True)
def _normalise(sums, counts, modality_channels, channels):  # type: ignore[no-untyped-def]
    """Turn sums (N, K) into means. counts: (N, modalities, heights) images that show each cell."""
    one = np.float32(1.0)
    modalities, heights = counts.shape[1:]
    paint_offset = modalities * modality_channels
    for i in range(len(sums)):
        total = np.float32(0.0)
        for m in range(modalities):
            n, s = np.float32(0.0), sums[i, m * modality_channels : (m + 1) * modality_channels]
            for h in range(heights):
                n += counts[i, m, h]
                s[channels + h] /= max(counts[i, m, h], one)
            total += n
            if n > 0:
                scale = one / n
                for k in range(channels):
                    s[k] *= scale
                s[channels + heights] *= scale
                s[channels + heights + 1] = one
        if total > 0:
            for k in range(paint_offset, sums.shape[1]):
                sums[i, k] /= total


@njit(nogil=True)
def _sample(  # type: ignore[no-untyped-def]
    positions,
    masked,
    camera,
    optical_from_base,
    features,
    cumulative,
    paint,
    edges,
    offset,
    half_cell,
    sums,
):
    """Add one image to the sums (N, K) of points (N, 3): features, weight and number of images."""
    t = optical_from_base
    channels = features.shape[2]
    for i in range(len(positions)):
        if masked[i]:
            continue
        px, py, pz = positions[i, 0], positions[i, 1], positions[i, 2]
        x = t[0, 0] * px + t[0, 1] * py + t[0, 2] * pz + t[0, 3]
        y = t[1, 0] * px + t[1, 1] * py + t[1, 2] * pz + t[1, 3]
        z = t[2, 0] * px + t[2, 1] * py + t[2, 2] * pz + t[2, 3]
        u, v, visible = project_point(camera, x, y, z)
        if not visible:
            continue
        distance = np.sqrt(x * x + y * y + z * z)
        weight, _ = _surface(cumulative, u, v, distance, half_cell, edges)
        _add(features, u, v, FEATURE_STRIDE, np.float32(1.0), sums[i], offset)
        sums[i, offset + channels] += weight
        sums[i, offset + channels + 1] += np.float32(1.0)


@njit(nogil=True)
def _normalise_samples(sums):  # type: ignore[no-untyped-def]
    """Turn sums (N, C + 2), whose last channel counts images, into means and a flag."""
    last = sums.shape[1] - 1
    for i in range(len(sums)):
        n = sums[i, last]
        if n > 0:
            for k in range(last):
                sums[i, k] /= n
            sums[i, last] = np.float32(1.0)
