"""Top-view canvas around the vehicle: x (forward) points up in the image, y (left) points left."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.visualization.palette import EGO, GRID, MUTED, PANEL, Colour


@dataclass(frozen=True)
class Canvas:
    """A square top view centred at base_link.

    extent: distance from the centre to each edge in metres.
    image: (size, size, 3) uint8 RGB, modified in place by the draw methods.
    """

    extent: float
    image: NDArray[np.uint8]

    @classmethod
    def blank(cls, extent: float, size: int) -> Canvas:
        """A canvas of `size` x `size` pixels filled with the background colour."""
        return cls(extent, np.full((size, size, 3), PANEL, np.uint8))

    def to_pixels(self, xy: NDArray[np.floating]) -> NDArray[np.int64]:
        """Pixel columns and rows (N, 2) of points (N, 2) given in metres in base_link."""
        size = self.image.shape[0]
        scale = size / (2 * self.extent)
        column = (self.extent - xy[:, 1]) * scale
        row = (self.extent - xy[:, 0]) * scale
        return np.floor(np.column_stack([column, row])).astype(np.int64)

    def draw_points(self, xy: NDArray[np.floating], colours: NDArray[np.uint8]) -> None:
        """Draw each point (N, 2), metres, as one pixel in its RGB colour (N, 3)."""
        at = self.to_pixels(xy)
        inside = ((at >= 0) & (at < self.image.shape[0])).all(axis=1)
        self.image[at[inside, 1], at[inside, 0]] = colours[inside]

    def draw_polygon(self, xy: NDArray[np.floating], colour: Colour, width: int = 2) -> None:
        """Draw a closed outline through points (N, 2), metres."""
        cv2.polylines(
            self.image, [self.to_pixels(xy).astype(np.int32)], True, colour, width, cv2.LINE_AA
        )

    def draw_line(self, xy: NDArray[np.floating], colour: Colour, width: int = 2) -> None:
        """Draw an open polyline through points (N, 2), metres."""
        cv2.polylines(
            self.image, [self.to_pixels(xy).astype(np.int32)], False, colour, width, cv2.LINE_AA
        )

    def draw_range_rings(self, step: float = 10.0) -> None:
        """Draw circles every `step` metres around base_link, labelled with their radius."""
        centre = self.image.shape[0] // 2
        scale = self.image.shape[0] / (2 * self.extent)
        for radius in np.arange(step, self.extent * 1.4, step):
            cv2.circle(self.image, (centre, centre), int(radius * scale), GRID, 1, cv2.LINE_AA)
            if radius <= self.extent:
                at = (centre + 3, centre - int(radius * scale) + 13)
                write_text(self.image, f"{radius:.0f} m", at, MUTED, 0.36)

    def draw_ego(self) -> None:
        """Draw an arrow head at base_link that points forward."""
        self.draw_polygon(np.array([[1.6, 0.0], [-1.2, 0.9], [-0.6, 0.0], [-1.2, -0.9]]), EGO, 2)


def write_text(
    image: NDArray[np.uint8], text: str, at: tuple[int, int], colour: Colour, scale: float = 0.5
) -> None:
    """Draw text with a dark outline so that it is readable on any background.

    at: column and row of the lower left corner of the text.
    """
    font = cv2.FONT_HERSHEY_SIMPLEX
    # The outline is drawn by shifted copies, because a thicker line changes the letter spacing.
    for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1)):
        shifted = at[0] + right, at[1] + down
        cv2.putText(image, text, shifted, font, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(image, text, at, font, scale, colour, 1, cv2.LINE_AA)
