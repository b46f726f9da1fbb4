"""All layers of an occupancy grid side by side, with semantic classes and the published values."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.occupancy.layers import (
    SEMANTIC_LAYER,
    occupancy_percent,
    semantic_percent,
)
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.visualization.canvas import Canvas, write_text
from multimodal_perception.visualization.palette import (
    BACKGROUND,
    FREE,
    GROUND_TRUTH,
    MUTED,
    OCCUPIED,
    PANEL,
    TEXT,
    UNKNOWN_CELL,
    Colour,
)

CONFLICT: Colour = (235, 70, 120)
UNKNOWN_SHADE: Colour = (150, 160, 190)
FREE_SHADE: Colour = (110, 220, 150)
GAP = 12
TITLE = 30
COLUMNS = 4
CLASS_COLOURS: dict[str, Colour] = {
    "free": FREE,
    "obstacle": OCCUPIED,
    "kerb": (230, 200, 90),
    "wall": (190, 120, 80),
    "pole": (200, 110, 230),
    "vehicle": (90, 150, 240),
    "person": (250, 90, 90),
}


def draw_layers(
    grid: OccupancyGrid, boxes: Boxes3D | None = None, size: int = 420, title: str = ""
) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 of eight panels of `size` pixels, x (forward) up and y (left) left.

    A mass panel is dark for mass 0 and has the layer's colour for mass 1. The panels of the
    pignistic probability of occupied and of the published percentage are white for 1. Unknown cells
    of the published grid are grey. boxes: outlined in every panel; given in the grid's frame.
    """
    conflict = np.zeros_like(grid.free) if grid.conflict is None else grid.conflict
    unknown = np.clip(grid.unknown(), 0.0, 1.0)
    blend = _blend(
        [
            (grid.free, FREE),
            (grid.occupied, OCCUPIED),
            (conflict, CONFLICT),
            (unknown, UNKNOWN_CELL),
        ]
    )
    panels = [
        ("all masses", blend),
        ("free", _shade(grid.free, FREE_SHADE)),
        ("occupied", _shade(grid.occupied, OCCUPIED)),
        ("unknown", _shade(unknown, UNKNOWN_SHADE)),
        ("conflict", _shade(conflict, CONFLICT)),
        ("probability of occupied", _shade(grid.probability(), (255, 255, 255))),
        ("semantic", _semantic(grid, boxes)),
        ("published percent", _published(grid)),
    ]
    drawn = [_panel(grid, name, colours, boxes, size) for name, colours in panels]
    rows = [np.concatenate(drawn[k : k + COLUMNS], axis=1) for k in range(0, len(drawn), COLUMNS)]
    sheet = np.concatenate(rows)
    heading = np.full((40, sheet.shape[1], 3), BACKGROUND, np.uint8)
    rows_, columns = grid.free.shape
    text = f"{title}   {rows_} x {columns} cells of {grid.resolution:g} m in {grid.frame_id}"
    write_text(heading, text.strip(), (GAP, 27), TEXT, 0.6)
    return np.concatenate([heading, sheet])


def _blend(layers: list[tuple[NDArray[np.float32], Colour]]) -> NDArray[np.uint8]:
    mixed = sum(mass[..., None] * np.array(colour, np.float32) for mass, colour in layers)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _semantic(grid: OccupancyGrid, boxes: Boxes3D | None) -> NDArray[np.uint8]:
    colours = np.array([UNKNOWN_CELL, *(CLASS_COLOURS[n] for n in SEMANTIC_LAYER)], np.uint8)
    return colours[semantic_percent(grid, boxes) + 1]


def _published(grid: OccupancyGrid) -> NDArray[np.uint8]:
    cells = occupancy_percent(grid)
    colours = _shade(np.maximum(cells, 0) / np.float32(100), (255, 255, 255))
    colours[cells < 0] = UNKNOWN_CELL
    return colours


def _shade(mass: NDArray[np.floating], colour: Colour) -> NDArray[np.uint8]:
    rest = 1.0 - mass
    return _blend([(np.asarray(mass, np.float32), colour), (np.asarray(rest, np.float32), PANEL)])


def _panel(
    grid: OccupancyGrid,
    name: str,
    colours: NDArray[np.uint8],
    boxes: Boxes3D | None,
    size: int,
) -> NDArray[np.uint8]:
    # Grid rows are y and columns are x; the image has x pointing up and y pointing left.
    rotated = np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1])
    image = cv2.resize(rotated, (size, size), interpolation=cv2.INTER_AREA)
    extent = grid.resolution * grid.free.shape[1] / 2
    centre = np.array(grid.origin) + extent
    canvas = Canvas(extent, np.ascontiguousarray(image))
    canvas.draw_range_rings()
    if boxes is not None:
        for outline in corners(boxes.boxes)[:, :4, :2]:
            canvas.draw_polygon(outline - centre, GROUND_TRUTH, 1)
    canvas.draw_ego()
    bar = np.full((TITLE, size, 3), BACKGROUND, np.uint8)
    write_text(bar, name, (4, 21), MUTED, 0.5)
    framed = np.concatenate([bar, canvas.image])
    return cv2.copyMakeBorder(
        framed, 0, GAP, GAP, 0, cv2.BORDER_CONSTANT, value=tuple(int(v) for v in BACKGROUND)
    )
