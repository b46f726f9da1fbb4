"""Dirt, drops and other patches on a lens, from structure that stays in place while the scene moves.

While the vehicle drives, the image of the scene flows away from the focus of expansion. The derivative
of the grey level along the flow therefore has a mean near zero over some metres. Patches on the lens
stay at the same pixels, so that the derivative at their borders keeps its value. Structure parallel to
the flow, such as lane markings and kerbs, can stay in place too, and has no derivative along the flow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.cameras import CameraModel

# Standard deviations of the band-pass filter, as a fraction of the image's width: finer structure is
# noise, and coarser structure is vignetting, the gradient of the sky or the light of the headlights.
BAND = (1.5 / 320, 8.0 / 320)
# Minimum movement of the ground in the image during one window, as a fraction of the image's width.
# Where it is smaller, such as near the horizon, the scene stays in place like a patch. Other objects are
# nearer than the ground behind them and move more.
MIN_MOVEMENT = 8.0 / 320
# Vehicles ahead and behind at the same speed stay in place: ground further away than the first value, m,
# is not examined if the angle to the direction of driving has a tangent below the second one.
LEADING_VEHICLE = (4.5, 0.3)
# Only rays below this elevation are examined, radians: clouds and distant buildings stay in place.
MAX_ELEVATION = np.radians(-2.0)
# Pixels closer than this (fraction of the width) to unexamined ones are not examined either: the
# band-pass filter mixes their values.
FILTER_REACH = 12.0 / 320
# Lowest height of a camera above the ground, m.
MIN_CAMERA_HEIGHT = 0.1
# Minimum movement between two samples, m, and minimum number of samples of one window.
SAMPLE_DISTANCE, MIN_SAMPLES = 0.5, 20
# A border of a patch: minimum ratio of the mean derivative to its root mean square, and minimum mean
# derivative, grey levels per pixel.
MIN_RATIO, MIN_DERIVATIVE = 0.7, 0.6
# Derivatives of this size are rounding errors of the pixels, grey levels per pixel.
ROUNDING = 0.05
# Patches have at least this many border pixels, and are at most this wide (fraction of the width).
MIN_BORDER_PIXELS, MAX_PATCH_WIDTH = 8, 0.4
# Maximum distance between the borders of a patch in two windows, px.
TOLERANCE = 2

Layer = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass
class FlowField:
    """Directions of the flow of the scene in one camera's small image while the vehicle drives ahead.

    direction: (H, W, 2) float32, unit vectors x, y. examined: (H, W) bool, where patches can be found.
    """

    direction: Layer
    examined: Mask


def flow_field(
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    size: tuple[int, int],
    window_m: float,
    ground_z: float = 0.0,
) -> FlowField:
    """The flow field of an image that is scaled to a size (width, height) px.

    base_from_camera: pose (4, 4) of the optical frame in base_link, which moves along its x axis by
    window_m metres in one window. ground_z: height of the ground in base_link, m.
    """
    width, height = size
    small = model.scaled(width / model.width, height / model.height)
    v, u = np.mgrid[0:height, 0:width]
    rays = small.unproject(np.column_stack([u.ravel(), v.ravel()]).astype(np.float64))
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    rotation = base_from_camera[:3, :3]
    upward = rays @ rotation[2]
    camera_height = max(base_from_camera[2, 3] - ground_z, MIN_CAMERA_HEIGHT)
    ground = rays * (camera_height / np.maximum(-upward, -np.sin(MAX_ELEVATION)))[:, None]
    step = 0.01 * rotation.T[:, 0]
    behind, ahead = small.project(ground - step)[0], small.project(ground + step)[0]
    flow = ((behind - ahead) / 0.02).reshape(height, width, 2)
    speed = np.linalg.norm(flow, axis=-1)
    with np.errstate(invalid="ignore"):
        examined = speed * window_m > MIN_MOVEMENT * width
    x, y = np.abs(ground @ rotation[0]), np.abs(ground @ rotation[1])
    leading = (np.hypot(x, y) > LEADING_VEHICLE[0]) & (y < LEADING_VEHICLE[1] * x)
    examined &= (~leading & (upward < np.sin(MAX_ELEVATION))).reshape(height, width)
    examined &= np.isfinite(flow).all(axis=-1)
    reach = 2 * round(FILTER_REACH * width) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    examined = cv2.erode(examined.astype(np.uint8), kernel) > 0
    direction = np.where(examined[..., None], flow / np.maximum(speed, 1e-9)[..., None], 0.0)
    return FlowField(direction.astype(np.float32), examined)


@dataclass
class LensMonitor:
    """Finds patches on the lens of one camera. Images must be in the order of their stamps.

    window_m: driven distance of one window. A patch is reported if it is present in two windows in a
    row. patches: (H, W) bool, borders of the patches of the last two windows, or None before that.
    covered: fraction of the examined pixels inside of patches, or None.
    """

    flow: FlowField
    window_m: float
    covered: float | None = None
    patches: Mask | None = None
    _travelled: float = 0.0
    _since_sample: float = 0.0
    _samples: int = 0
    _sum: Layer = field(init=False)
    _squares: Layer = field(init=False)
    _last_borders: Mask | None = None

    def __post_init__(self) -> None:
        self._reset()

    def observe(self, grey: NDArray[np.uint8], moved: float) -> None:
        """Add an image (H, W) uint8. moved: metres that the vehicle has driven since the last one."""
        self._travelled += moved
        self._since_sample += moved
        if self._since_sample < SAMPLE_DISTANCE:
            return
        self._since_sample = 0.0
        derivative = _derivative_along(grey, self.flow.direction)
        self._sum += derivative
        self._squares += derivative * derivative
        self._samples += 1
        if self._travelled >= self.window_m and self._samples >= MIN_SAMPLES:
            self._evaluate()
            self._reset()

    def _evaluate(self) -> None:
        mean = self._sum / self._samples
        root_mean_square = np.sqrt(self._squares / self._samples + ROUNDING**2)
        borders = (np.abs(mean) >= MIN_RATIO * root_mean_square) & (np.abs(mean) >= MIN_DERIVATIVE)
        borders &= self.flow.examined
        if self._last_borders is not None:
            self.patches, area = _patches(borders & _widened(self._last_borders))
            self.covered = area / max(int(self.flow.examined.sum()), 1)
        self._last_borders = borders

    def _reset(self) -> None:
        shape = self.flow.examined.shape
        self._sum, self._squares = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._travelled, self._samples = 0.0, 0


def _derivative_along(grey: NDArray[np.uint8], direction: Layer) -> Layer:
    """Derivative (H, W) of the band-pass filtered image along the flow, grey levels per pixel."""
    values = grey.astype(np.float32)
    fine, coarse = (s * grey.shape[1] for s in BAND)
    band = cv2.GaussianBlur(values, (0, 0), fine) - cv2.GaussianBlur(values, (0, 0), coarse)
    x = cv2.Sobel(band, cv2.CV_32F, 1, 0, scale=0.125)
    y = cv2.Sobel(band, cv2.CV_32F, 0, 1, scale=0.125)
    return np.asarray(x * direction[..., 0] + y * direction[..., 1], np.float32)


def _patches(borders: Mask) -> tuple[Mask, float]:
    """The borders (H, W) of patches, and the area of the patches' convex hulls in pixels.

    Structure that touches the border of the image is left out, as it can be the vehicle's own body or
    its shadow, and so is wide structure, such as the borders of the headlights' light.
    """
    height, width = borders.shape
    closed = cv2.morphologyEx(borders.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    kept, area = np.zeros_like(borders), 0.0
    for k in range(1, count):
        x, y, w, h, pixels = boxes[k]
        touches = x <= 1 or x + w >= width - 1 or y + h >= height - 1
        if touches or pixels < MIN_BORDER_PIXELS or w > MAX_PATCH_WIDTH * width:
            continue
        part = labels[y : y + h, x : x + w] == k
        kept[y : y + h, x : x + w] |= part & borders[y : y + h, x : x + w]
        hull = cv2.convexHull(np.argwhere(part).astype(np.int32))
        area += float(cv2.contourArea(hull)) + 0.5 * float(cv2.arcLength(hull, True)) + 1.0
    return kept, area


def _widened(mask: Mask) -> Mask:
    size = 2 * TOLERANCE + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0)
