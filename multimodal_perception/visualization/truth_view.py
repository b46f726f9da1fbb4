"""What is true of a simulated frame on a picture: classes and instances, visibility, occupancy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.visualization.canvas import Canvas
from multimodal_perception.visualization.palette import CLASS_COLOURS, Colour
from multimodal_perception.visualization.sheet import GAP, WIDTH, row_of, rows_of, titled
from multimodal_perception.visualization.top_view import draw_occupancy, draw_outlines

SCENERY: dict[str, Colour] = {
    "sky": (70, 130, 180),
    "road": (110, 84, 120),
    "marking": (230, 230, 230),
    "sidewalk": (200, 70, 190),
    "kerb": (170, 130, 170),
    "terrain": (130, 190, 110),
    "building": (95, 95, 100),
    "wall": (125, 120, 170),
    "fence": (170, 140, 140),
    "pole": (190, 190, 150),
    "vegetation": (80, 130, 40),
    "rack": (60, 90, 180),
    "furniture": (190, 140, 60),
}


@runtime_checkable
class Truthful(Protocol):
    """A dataset that knows all that is true of its frames: a simulation or its shards."""

    def truth(self, index: int) -> FrameTruth: ...


def semantic_colours() -> NDArray[np.uint8]:
    """RGB (classes, 3) of SEMANTIC_NAMES."""
    return np.array(
        [CLASS_COLOURS.get(n, SCENERY.get(n, (0, 0, 0))) for n in SEMANTIC_NAMES], np.uint8
    )


def draw_truth(truth: FrameTruth, extent: float = 40.0) -> NDArray[np.uint8]:
    """RGB picture (H, 1640, 3) uint8 to be set below a sheet of the same frame."""
    images = [(f"{name}: true classes", _classes(truth, name)) for name in truth.views]
    size = (WIDTH - 3 * GAP) // 2
    nothing = truth.boxes.select(np.zeros(0, np.int64))
    grid = Canvas(extent, draw_occupancy(truth.occupancy, nothing, extent, size))
    seen = truth.boxes.select(truth.visibility > 0)
    draw_outlines(grid, seen)
    plane = Canvas(extent, _plane(truth, extent, size))
    draw_outlines(plane, truth.boxes)
    below = [
        titled(grid.image, "true occupancy, with the boxes in sight"),
        titled(plane.image, "true classes of the plane, with all boxes"),
    ]
    return np.concatenate([*rows_of(images), row_of(below)])


def _classes(truth: FrameTruth, name: str) -> NDArray[np.uint8]:
    """Colours of the classes, white where another instance begins."""
    view = truth.views[name]
    image = semantic_colours()[view.semantics]
    edge = np.zeros(view.instances.shape, np.bool_)
    edge[:, 1:] |= view.instances[:, 1:] != view.instances[:, :-1]
    edge[1:] |= view.instances[1:] != view.instances[:-1]
    image[edge] = 255
    return image


def _plane(truth: FrameTruth, extent: float, size: int) -> NDArray[np.uint8]:
    """The semantic grid (size, size, 3), forward up and left to the left."""
    grid, cells = truth.occupancy, truth.semantic_grid
    middles = extent - (np.arange(size) + 0.5) * (2 * extent / size)
    column = np.floor((middles - grid.origin[0]) / grid.resolution).astype(np.int64)
    row = np.floor((middles - grid.origin[1]) / grid.resolution).astype(np.int64)
    rows, columns = cells.shape
    inside = ((column >= 0) & (column < columns))[:, None] & ((row >= 0) & (row < rows))
    found = cells[np.clip(row, 0, rows - 1)[None, :], np.clip(column, 0, columns - 1)[:, None]]
    return np.where(inside[..., None], semantic_colours()[found], np.uint8(0)).astype(np.uint8)
