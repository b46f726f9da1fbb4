"""The worst images or frames of an evaluation, as pictures for a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.html_report import ReportPicture
from multimodal_perception.evaluation.occupancy import (
    FREE,
    FREE_MAX_PROBABILITY,
    OCCUPIED,
    OCCUPIED_MIN_PROBABILITY,
    TruthFunction,
    cell_centres,
)
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.segmentation.classes import COLOURS, IGNORED
from multimodal_perception.visualization.error_view import encode_jpeg

# Height of the pictures of a row, pixels.
HEIGHT = 260
WRONG = (230, 60, 60)


@dataclass
class WorstPictures:
    """Keeps the pictures with the highest errors; the first of equally bad ones.

    count: number of pictures; 0 keeps none.
    """

    count: int
    _kept: list[tuple[float, ReportPicture]] = field(default_factory=list)

    def add(self, error: float, caption: str, draw: Callable[[], NDArray[np.uint8]]) -> None:
        """Add a frame; it is drawn only if it is among the worst so far. NaN is left out."""
        full = len(self._kept) >= self.count
        if self.count == 0 or not error > 0 or (full and error <= self._kept[-1][0]):
            return
        self._kept.append((error, ReportPicture(caption, encode_jpeg(draw()))))
        self._kept.sort(key=lambda entry: -entry[0])
        del self._kept[self.count :]

    def merge(self, other: WorstPictures) -> None:
        """Keep the worst of both; the pictures of this one come first among equally bad ones."""
        self._kept = sorted([*self._kept, *other._kept], key=lambda entry: -entry[0])[: self.count]

    def pictures(self) -> list[ReportPicture]:
        """The pictures in descending order of their errors."""
        return [picture for _, picture in self._kept]


def draw_mask_errors(
    rgb: NDArray[np.uint8], truth: NDArray[np.uint8], predicted: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """RGB image: the image with wrong pixels in red, the label and the prediction in class colours.

    truth, predicted: (H, W) indices of the classes; pixels with the label IGNORED are not marked.
    """
    wrong = (truth != predicted) & (truth != IGNORED)
    marked = rgb.copy()
    marked[wrong] = (0.4 * marked[wrong] + 0.6 * np.array(WRONG)).astype(np.uint8)
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLOURS)] = COLOURS
    return _row([marked, table[truth], table[predicted]])


def grid_errors(grid: OccupancyGrid, true_state: TruthFunction) -> float:
    """Fraction of the cells with a known state that are predicted the other way."""
    truth = _true_cells(grid, true_state)
    probability = grid.probability()
    wrong = (truth == OCCUPIED) & (probability <= FREE_MAX_PROBABILITY)
    wrong |= (truth == FREE) & (probability >= OCCUPIED_MIN_PROBABILITY)
    known = (truth == OCCUPIED) | (truth == FREE)
    return float(wrong.sum() / known.sum()) if known.any() else float("nan")


def draw_grid_errors(grid: OccupancyGrid, true_state: TruthFunction) -> NDArray[np.uint8]:
    """RGB image: the grid, the truth and the errors, see occupancy_report.LEGEND."""
    truth, probability = _true_cells(grid, true_state), grid.probability()
    shade = (255 * (1.0 - probability)).astype(np.uint8)
    grey = np.repeat(shade[..., None], 3, axis=2)
    marked = grey.copy()
    marked[(truth == OCCUPIED) & (probability <= FREE_MAX_PROBABILITY)] = WRONG
    marked[(truth == FREE) & (probability >= OCCUPIED_MIN_PROBABILITY)] = (255, 165, 0)
    true = np.full_like(grey, 128)
    true[truth == OCCUPIED], true[truth == FREE] = 0, 255
    # Rows are y and columns x: forward is up and left is left in the picture.
    turned = [np.rot90(part.transpose(1, 0, 2), 2) for part in (grey, true, marked)]
    return _row(turned, nearest=True)


def _true_cells(grid: OccupancyGrid, true_state: TruthFunction) -> NDArray[np.integer]:
    """True state (rows, columns) of the cells of a grid."""
    x, y = cell_centres(grid)
    return np.asarray(true_state(x.ravel(), y.ravel())).reshape(grid.free.shape)


def _row(images: Sequence[NDArray[np.uint8]], nearest: bool = False) -> NDArray[np.uint8]:
    """The images side by side at a height of HEIGHT pixels."""
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    parts = []
    for image in images:
        width = max(round(image.shape[1] * HEIGHT / image.shape[0]), 1)
        parts.append(cv2.resize(np.ascontiguousarray(image), (width, HEIGHT), interpolation=method))
    return np.concatenate(parts, axis=1)
