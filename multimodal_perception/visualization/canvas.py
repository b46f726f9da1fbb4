"""The plane around the vehicle as pixels: x forward is up, y left is left."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.visualization.palette import EGO, GRID, MUTED, PANEL, Colour


@dataclass(frozen=True)
class Canvas:
    """A square of `extent` metres around base_link on `size` pixels.

    image: (size, size, 3) uint8 RGB, drawn on in place.
    """

    extent: float
    image: NDArray[np.uint8]

    @classmethod
    def blank(cls, extent: float, size: int) -> Canvas:
        """An empty one."""
        return cls(extent, np.full((size, size, 3), PANEL, np.uint8))

    def pixels(self, xy: NDArray[np.floating]) -> NDArray[np.int64]:
        """Columns and rows (N, 2) of points (N, 2) in metres."""
        size = self.image.shape[0]
        scale = size / (2 * self.extent)
        column = (self.extent - xy[:, 1]) * scale
        row = (self.extent - xy[:, 0]) * scale
        return np.floor(np.column_stack([column, row])).astype(np.int64)

    def dots(self, xy: NDArray[np.floating], colours: NDArray[np.uint8]) -> None:
        """One pixel a point (N, 2), in its colour (N, 3)."""
        at = self.pixels(xy)
        inside = ((at >= 0) & (at < self.image.shape[0])).all(axis=1)
        self.image[at[inside, 1], at[inside, 0]] = colours[inside]

    def polygon(self, xy: NDArray[np.floating], colour: Colour, width: int = 2) -> None:
        """A closed outline through points (N, 2)."""
        cv2.polylines(
            self.image, [self.pixels(xy).astype(np.int32)], True, colour, width, cv2.LINE_AA
        )

    def line(self, xy: NDArray[np.floating], colour: Colour, width: int = 2) -> None:
        """A line through points (N, 2)."""
        cv2.polylines(
            self.image, [self.pixels(xy).astype(np.int32)], False, colour, width, cv2.LINE_AA
        )

    def rings(self, step: float = 10.0) -> None:
        """Circles of distance with their metres."""
        middle = self.image.shape[0] // 2
        scale = self.image.shape[0] / (2 * self.extent)
        for radius in np.arange(step, self.extent * 1.4, step):
            cv2.circle(self.image, (middle, middle), int(radius * scale), GRID, 1, cv2.LINE_AA)
            if radius <= self.extent:
                at = (middle + 3, middle - int(radius * scale) + 13)
                write_text(self.image, f"{radius:.0f} m", at, MUTED, 0.36)

    def ego(self) -> None:
        """An arrow head at base_link."""
        self.polygon(np.array([[1.6, 0.0], [-1.2, 0.9], [-0.6, 0.0], [-1.2, -0.9]]), EGO, 2)


def write_text(
    image: NDArray[np.uint8], text: str, at: tuple[int, int], colour: Colour, scale: float = 0.5
) -> None:
    """Text with a dark rim, readable on any ground. at: column and row of its lower left."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    # Not with a thicker pen: that one spaces the letters differently.
    for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
        beside = at[0] + right, at[1] + down
        cv2.putText(image, text, beside, font, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(image, text, at, font, scale, colour, 1, cv2.LINE_AA)
