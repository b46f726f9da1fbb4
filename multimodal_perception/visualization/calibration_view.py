"""Pairs of sensors as pictures: the edges of one over the image of the other, before and after."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.monitor import Drift
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, Sight, see
from multimodal_perception.frame import SensorFrame
from multimodal_perception.visualization.sheet import GAP, WIDTH, fit, row_of, titled

# Share of what is seen that is drawn as edges; the strongest ones.
EDGE_SHARE = 0.06
EDGE_COLOUR = (255, 120, 0)
PANEL_WIDTH = (WIDTH - 3 * GAP) // 2


def draw_drift(frame: SensorFrame, pair: Pair, drift: Drift | None) -> NDArray[np.uint8]:
    """RGB image: a pair by the calibration as it is, and, where a drift is known, with it taken out."""
    before = see(frame, pair)
    panels = [] if before is None else [("as calibrated", before)]
    after = None if drift is None else see(frame, pair, drift.turn)
    if drift is not None and after is not None:
        panels.append((f"turned by {drift.degrees:.2f} deg", after))
    if not panels:
        blank = np.zeros((8, PANEL_WIDTH, 3), np.uint8)
        return row_of([titled(blank, f"{pair}: they share too little")])
    images = [titled(fit(_overlay(s), PANEL_WIDTH), f"{pair}, {what}") for what, s in panels]
    return row_of(images)


def _overlay(sight: Sight) -> NDArray[np.uint8]:
    image = np.repeat(sight.image[..., None], 3, axis=2) // 2 + 40
    image[_edges(sight)] = EDGE_COLOUR
    return np.asarray(image, np.uint8)


def _edges(sight: Sight) -> NDArray[np.bool_]:
    """Pixels (H, W) on a ridge of the drawn image's gradient: of depth for LiDARs, else of grey."""
    drawn = cv2.GaussianBlur(sight.drawn[0], (0, 0), 1.0)
    gx, gy = (cv2.Sobel(drawn, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    inside = cv2.erode(sight.seen.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    strength = np.hypot(gx, gy) * inside
    if not inside.any():
        return inside
    # A ridge is no weaker than its neighbours across the edge.
    across = np.where(
        np.abs(gx) > np.abs(gy),
        np.maximum(np.roll(strength, 1, 1), np.roll(strength, -1, 1)),
        np.maximum(np.roll(strength, 1, 0), np.roll(strength, -1, 0)),
    )
    ridge = inside & (strength >= across) & (strength > 0)
    if not ridge.any():
        return ridge
    count = int(EDGE_SHARE * inside.sum())
    values = np.sort(strength[ridge])
    return ridge & (strength >= values[-min(count, len(values))])
