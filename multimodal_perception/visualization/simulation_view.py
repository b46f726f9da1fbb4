"""A simulated frame on one picture: cameras, thermal, what they show, sweep, echoes and truth."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import InfraredImage, SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.simulation.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.thermal import gain_controlled
from multimodal_perception.simulation.truth import FrameTruth
from multimodal_perception.visualization.camera_view import draw_camera
from multimodal_perception.visualization.canvas import Canvas, write_text
from multimodal_perception.visualization.palette import BACKGROUND, CLASS_COLOURS
from multimodal_perception.visualization.sheet import GAP, WIDTH, fit, row_of, titled
from multimodal_perception.visualization.top_view import draw_occupancy, draw_sweep

SCENERY = {
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
}
ECHO = (255, 214, 90)


def semantic_colours() -> NDArray[np.uint8]:
    """RGB (classes, 3) of SEMANTIC_NAMES."""
    return np.array(
        [CLASS_COLOURS.get(n, SCENERY.get(n, (0, 0, 0))) for n in SEMANTIC_NAMES], np.uint8
    )


def draw_simulation(
    frame: SensorFrame, truth: FrameTruth, title: str = "", extent: float = 40.0
) -> NDArray[np.uint8]:
    """RGB picture (H, 1640, 3) uint8 of a frame of a Simulation and its truth."""
    panels = []
    for name in frame.cameras:
        picture = draw_camera(frame, name, truth.boxes.select(np.zeros(0, np.int64)))
        panels += [(name, picture), (f"{name}: classes", _classes(truth, name))]
    for name, image in frame.infrareds.items():
        panels += [(name, draw_thermal(image)), (f"{name}: classes", _classes(truth, name))]
    size = (WIDTH - 3 * GAP) // 2
    sweep = draw_sweep(frame, truth.boxes, extent, size)
    _draw_echoes(sweep, frame, extent)
    grid = draw_occupancy(truth.occupancy, truth.boxes, extent, size)
    panels += [("sweep, boxes and echoes", sweep), ("true occupancy", grid)]
    rows = [_heading(title)]
    for first in range(0, len(panels), 2):
        pair = [titled(fit(image, size), text) for text, image in panels[first : first + 2]]
        rows.append(row_of(pair))
    return np.concatenate(rows)


def draw_thermal(image: InfraredImage) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) of a thermal image, cold black to hot white through purple and orange."""
    pixels = image.pixels
    grey = pixels if pixels.dtype == np.uint8 else gain_controlled(_kelvin(image))
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1])


def _kelvin(image: InfraredImage) -> NDArray[np.float32]:
    scale, offset = image.kelvin or (0.01, 0.0)
    return image.pixels.astype(np.float32) * np.float32(scale) + np.float32(offset)


def _classes(truth: FrameTruth, name: str) -> NDArray[np.uint8]:
    """Colours of the classes, darker where another instance begins."""
    view = truth.views[name]
    image = semantic_colours()[view.semantics]
    edge = np.zeros(view.instances.shape, np.bool_)
    edge[:, 1:] |= view.instances[:, 1:] != view.instances[:, :-1]
    edge[1:] |= view.instances[1:] != view.instances[:-1]
    image[edge] = 255
    return image


def _draw_echoes(image: NDArray[np.uint8], frame: SensorFrame, extent: float) -> None:
    """The arc at which each ultrasonic heard something."""
    canvas = Canvas(extent, image)
    for name, reading in frame.ultrasonics.items():
        if np.isfinite(reading.range_m):
            canvas.line(_arc(reading, frame.reference_from_sensor(name)), ECHO, 2)


def _arc(reading: UltrasonicReading, base_from_sensor: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.linspace(-0.5, 0.5, 9) * reading.field_of_view
    reach = reading.range_m
    arc = np.column_stack([reach * np.cos(angle), reach * np.sin(angle), 0 * angle])
    return np.asarray(poses.transform_points(base_from_sensor, arc)[:, :2], np.float64)


def _heading(title: str) -> NDArray[np.uint8]:
    bar = np.full((44, WIDTH, 3), BACKGROUND, np.uint8)
    write_text(bar, title, (GAP, 30), (228, 230, 235), 0.65)
    return bar
