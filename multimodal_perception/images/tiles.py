"""Overlapping tiles of images, so that distant objects are large enough for a network."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.cameras import CameraModel

# A box that ends within this fraction of the tile's size at an inner border is a part of an object.
BORDER_FRACTION = 0.006


class Region(NamedTuple):
    """A rectangle of an image, pixels: columns left to right (exclusive), rows top to bottom."""

    left: int
    top: int
    right: int
    bottom: int


def tile_regions(width: int, height: int, tiles: tuple[int, int], overlap: float) -> list[Region]:
    """The whole image and, if there is more than one tile, its tiles.

    tiles: columns and rows. overlap: of neighbouring tiles, as a fraction of their size. Together the
    tiles cover the image.
    """
    regions = [Region(0, 0, width, height)]
    columns, rows = min(tiles[0], width), min(tiles[1], height)
    if columns * rows == 1:
        return regions
    for top, bottom in _intervals(height, rows, overlap):
        regions += [
            Region(left, top, right, bottom) for left, right in _intervals(width, columns, overlap)
        ]
    return regions


def _intervals(size: int, count: int, overlap: float) -> list[tuple[int, int]]:
    length = size / (count - (count - 1) * overlap)
    starts = np.linspace(0.0, size - length, count)
    return [(int(np.floor(s)), min(int(np.ceil(s + length)), size)) for s in starts]


def crop_frame(frame: SensorFrame, name: str, region: Region) -> SensorFrame:
    """The frame with the image of one camera or thermal camera cropped, and its camera model."""
    model = frame.intrinsics[name]
    if region == (0, 0, model.width, model.height):
        return frame
    matrix = model.matrix.copy()
    matrix[:2, 2] -= region.left, region.top
    width, height = region.right - region.left, region.bottom - region.top
    cropped = CameraModel(width, height, matrix, model.model, model.coefficients)
    rows, columns = slice(region.top, region.bottom), slice(region.left, region.right)
    cameras, thermals = dict(frame.cameras), dict(frame.thermals)
    if name in cameras:
        image = cameras[name]
        cameras[name] = replace(image, pixels=image.pixels[rows, columns])
    if name in thermals:
        thermal = thermals[name]
        valid = None if thermal.valid is None else thermal.valid[rows, columns]
        thermals[name] = replace(thermal, pixels=thermal.pixels[rows, columns], valid=valid)
    intrinsics = {**frame.intrinsics, name: cropped}
    return replace(frame, cameras=cameras, thermals=thermals, intrinsics=intrinsics)


def is_complete(
    boxes: NDArray[np.float32], region: Region, width: int, height: int
) -> NDArray[np.bool_]:
    """Mask (N,) of boxes (N, 4), pixels of the whole image, that no inner border of a tile cuts."""
    margin_x = BORDER_FRACTION * (region.right - region.left) + 1.0
    margin_y = BORDER_FRACTION * (region.bottom - region.top) + 1.0
    cut = np.zeros(len(boxes), np.bool_)
    if region.left > 0:
        cut |= boxes[:, 0] < region.left + margin_x
    if region.top > 0:
        cut |= boxes[:, 1] < region.top + margin_y
    if region.right < width:
        cut |= boxes[:, 2] > region.right - margin_x
    if region.bottom < height:
        cut |= boxes[:, 3] > region.bottom - margin_y
    return ~cut
