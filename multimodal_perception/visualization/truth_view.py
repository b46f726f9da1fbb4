"""Images of the ground truth of a simulated frame: classes, instances, visibility and occupancy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.visualization.canvas import Canvas
from multimodal_perception.visualization.palette import CLASS_COLOURS, Colour
from multimodal_perception.visualization.sheet import (
    GAP,
    WIDTH,
    add_title,
    arrange_rows,
    join_panels,
)
from multimodal_perception.visualization.top_view import draw_occupancy, draw_outlines

SCENERY_COLOURS: dict[str, Colour] = {
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
class HasGroundTruth(Protocol):
    """A dataset with full ground truth of its frames: a simulation, or shards written from one."""

    def truth(self, index: int) -> FrameTruth:
        """Ground truth of one frame."""
        ...


def semantic_colours() -> NDArray[np.uint8]:
    """RGB colours (classes, 3) uint8 in the order of SEMANTIC_NAMES."""
    return np.array(
        [CLASS_COLOURS.get(n, SCENERY_COLOURS.get(n, (0, 0, 0))) for n in SEMANTIC_NAMES], np.uint8
    )


def draw_truth(truth: FrameTruth, extent: float = 40.0) -> NDArray[np.uint8]:
    """RGB image (H, 1640, 3) uint8 that fits below the output of `draw_sheet` of the same frame."""
    images = [(f"{name}: ground-truth classes", _class_image(truth, name)) for name in truth.views]
    size = (WIDTH - 3 * GAP) // 2
    no_boxes = truth.boxes.select(np.zeros(0, np.int64))
    grid = Canvas(extent, draw_occupancy(truth.occupancy, no_boxes, extent, size))
    visible = truth.boxes.select(truth.visibility > 0)
    draw_outlines(grid, visible)
    semantic = Canvas(extent, _semantic_top_view(truth, extent, size))
    draw_outlines(semantic, truth.boxes)
    top_views = [
        add_title(grid.image, "ground-truth occupancy, with the visible boxes"),
        add_title(semantic.image, "ground-truth classes on the ground, with all boxes"),
    ]
    return np.concatenate([*arrange_rows(images), join_panels(top_views)])


def _class_image(truth: FrameTruth, name: str) -> NDArray[np.uint8]:
    """Class colours of one camera view, with white borders between instances."""
    view = truth.views[name]
    image = semantic_colours()[view.semantics]
    edge = np.zeros(view.instances.shape, np.bool_)
    edge[:, 1:] |= view.instances[:, 1:] != view.instances[:, :-1]
    edge[1:] |= view.instances[1:] != view.instances[:-1]
    image[edge] = 255
    return image


def _semantic_top_view(truth: FrameTruth, extent: float, size: int) -> NDArray[np.uint8]:
    """The semantic grid (size, size, 3) uint8, x (forward) up and y (left) left."""
    grid, cells = truth.occupancy, truth.semantic_grid
    centres = extent - (np.arange(size) + 0.5) * (2 * extent / size)
    column = np.floor((centres - grid.origin[0]) / grid.resolution).astype(np.int64)
    row = np.floor((centres - grid.origin[1]) / grid.resolution).astype(np.int64)
    rows, columns = cells.shape
    inside = ((column >= 0) & (column < columns))[:, None] & ((row >= 0) & (row < rows))
    classes = cells[np.clip(row, 0, rows - 1)[None, :], np.clip(column, 0, columns - 1)[:, None]]
    return np.where(inside[..., None], semantic_colours()[classes], np.uint8(0)).astype(np.uint8)
