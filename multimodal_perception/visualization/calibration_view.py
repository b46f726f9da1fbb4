"""Images of sensor pairs: edges of one sensor over the image of the other, with and without the
measured drift corrected."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.monitor import Drift
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, PairViews, render_pair
from multimodal_perception.frame import SensorFrame
from multimodal_perception.visualization.sheet import (
    GAP,
    WIDTH,
    add_title,
    join_panels,
    resize_to_width,
)

# Fraction of the overlapping pixels that is drawn as edges; the strongest edges are used.
EDGE_FRACTION = 0.06
EDGE_COLOUR = (255, 120, 0)
PANEL_WIDTH = (WIDTH - 3 * GAP) // 2


def draw_drift(frame: SensorFrame, pair: Pair, drift: Drift | None) -> NDArray[np.uint8]:
    """RGB image (H, WIDTH, 3) of a pair with the present extrinsics and, if a drift was estimated,
    with the drift corrected as well."""
    before = render_pair(frame, pair)
    panels = [] if before is None else [("as calibrated", before)]
    after = None if drift is None else render_pair(frame, pair, drift.rotation)
    if drift is not None and after is not None:
        panels.append((f"corrected by {drift.degrees:.2f} deg", after))
    if not panels:
        blank = np.zeros((8, PANEL_WIDTH, 3), np.uint8)
        return join_panels([add_title(blank, f"{pair}: the fields of view overlap too little")])
    images = [
        add_title(resize_to_width(_overlay(views), PANEL_WIDTH), f"{pair}, {label}")
        for label, views in panels
    ]
    return join_panels(images)


def _overlay(views: PairViews) -> NDArray[np.uint8]:
    image = np.repeat(views.image[..., None], 3, axis=2) // 2 + 40
    image[_edges(views)] = EDGE_COLOUR
    return np.asarray(image, np.uint8)


def _edges(views: PairViews) -> NDArray[np.bool_]:
    """Mask (H, W) of the strongest ridges of the gradient of the reference image.

    The reference is a depth image for a LiDAR and a grey image for a camera.
    """
    reference = cv2.GaussianBlur(views.reference[0], (0, 0), 1.0)
    gx, gy = (cv2.Sobel(reference, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    inside = cv2.erode(views.valid.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    strength = np.hypot(gx, gy) * inside
    if not inside.any():
        return inside
    # Non-maximum suppression: on a ridge the gradient is at least that of both neighbours across
    # the edge.
    neighbours = np.where(
        np.abs(gx) > np.abs(gy),
        np.maximum(np.roll(strength, 1, 1), np.roll(strength, -1, 1)),
        np.maximum(np.roll(strength, 1, 0), np.roll(strength, -1, 0)),
    )
    ridge = inside & (strength >= neighbours) & (strength > 0)
    if not ridge.any():
        return ridge
    count = int(EDGE_FRACTION * inside.sum())
    values = np.sort(strength[ridge])
    return ridge & (strength >= values[-min(count, len(values))])
