"""Inputs of the near-field network: fisheye images, cell positions in them, ultrasonic evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.evidence import EvidentialGrid, GridConfig
from multimodal_perception.occupancy.evidential import resample_to_base_axes
from multimodal_perception.occupancy.ultrasonic import UltrasonicModel
from multimodal_perception.runtime.card import ModelCard

# Cells per side and their size, m.
CELLS, RESOLUTION = 72, 0.2
CAMERAS = 4
IMAGE_ROWS, IMAGE_COLUMNS = 112, 192
# Heights above the ground at which each cell is projected into the images, m: near the ground and
# at knee height.
HEIGHTS_M = (0.05, 0.6)
# Image position of cells that are outside the field of view; valid positions are in [-1, 1].
OUTSIDE = -2.0
# Pixel normalisation of EfficientNet-Lite's ImageNet weights.
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
ULTRASONIC_CHANNELS = 5
ULTRASONIC_HALF_LIFE_S = 4.0
INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "images": (1, CAMERAS, 3, IMAGE_ROWS, IMAGE_COLUMNS),
    "sample_uv": (1, CAMERAS, len(HEIGHTS_M), CELLS, CELLS, 2),
    "ultrasonic_grid": (1, ULTRASONIC_CHANNELS, CELLS, CELLS),
    "has_ultrasonic": (1,),
}


class NearFieldInputs:
    """Builds the network's inputs from frames. Ultrasonic evidence accumulates while there is odometry.

    counts: rejected cameras by reason. Cameras without intrinsics (no_intrinsics), without extrinsics
    (no_extrinsics), with an invalid pose (bad_pose) and beyond the fourth (too_many_fisheyes) are
    counted in every frame. A camera with another lens model is counted once (CAMERA.not_fisheye).
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        # Two models, as each keeps the echoes that confirm those of the next frame.
        self._current_model, self._accumulated_model = UltrasonicModel(), UltrasonicModel()
        config = GridConfig(half_life_s=ULTRASONIC_HALF_LIFE_S)
        self._accumulated = EvidentialGrid(CELLS, RESOLUTION, config)
        self._sample_uv: dict[str, tuple[CameraModel, NDArray[np.float64], NDArray[np.float32]]]
        self._sample_uv = {}

    def build(
        self, frame: SensorFrame, fisheyes: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]] | None:
        """The network's inputs, float32; None if there are neither fisheye nor ultrasonic readings.

        fisheyes: names of the fisheye cameras to use; all by default (see select_fisheyes).
        images: (1, 4, 3, 112, 192), normalised. sample_uv: (1, 4, 2, 72, 72, 2), see project_cells.
        ultrasonic_grid: (1, 5, 72, 72), see ultrasonic_grid. has_ultrasonic: (1,), 1 or 0.
        """
        images = np.zeros((CAMERAS, 3, IMAGE_ROWS, IMAGE_COLUMNS), np.float32)
        sample_uv = np.full((CAMERAS, len(HEIGHTS_M), CELLS, CELLS, 2), OUTSIDE, np.float32)
        names = self.select_fisheyes(frame) if fisheyes is None else fisheyes
        for k, name in enumerate(names):
            rgb = frame.cameras[name].rgb()
            small = cv2.resize(rgb, (IMAGE_COLUMNS, IMAGE_ROWS), interpolation=cv2.INTER_AREA)
            images[k] = (small.transpose(2, 0, 1).astype(np.float32) - PIXEL_MEAN) / PIXEL_STD
            sample_uv[k] = self._cell_positions(frame, name)
        ultrasonic_grid = self.ultrasonic_grid(frame)
        if not names and ultrasonic_grid is None:
            return None
        has_ultrasonic = np.array([ultrasonic_grid is not None], np.float32)
        if ultrasonic_grid is None:
            ultrasonic_grid = np.zeros((ULTRASONIC_CHANNELS, CELLS, CELLS), np.float32)
        return {
            "images": images[None],
            "sample_uv": sample_uv[None],
            "ultrasonic_grid": ultrasonic_grid[None],
            "has_ultrasonic": has_ultrasonic,
        }

    def select_fisheyes(self, frame: SensorFrame) -> list[str]:
        """Names of the frame's calibrated fisheye cameras, at most four; rejected ones are counted."""
        names: list[str] = []
        for name in sorted(frame.cameras):
            camera = frame.intrinsics.get(name)
            if camera is None:
                self.counts["no_intrinsics"] += 1
            elif camera.model != "equidistant":
                self.counts[f"{name}.not_fisheye"] = 1
            elif name not in frame.base_from_sensor:
                self.counts["no_extrinsics"] += 1
            elif not poses.is_rigid(frame.reference_from_sensor(name)):
                self.counts["bad_pose"] += 1
            elif len(names) == CAMERAS:
                self.counts["too_many_fisheyes"] += 1
            else:
                names.append(name)
        return names

    def ultrasonic_grid(self, frame: SensorFrame) -> NDArray[np.float32] | None:
        """Bird's-eye-view ultrasonic evidence (5, 72, 72) along base_link's axes.

        Free and occupied mass of the present frame, then free, occupied and conflict mass of the
        accumulated evidence. None without a valid reading in the present frame.
        """
        cells = self._accumulated.advance(frame.stamp_ns, frame.odom_from_base)
        base_cells = GridGeometry.around_base(CELLS, RESOLUTION)
        current = self._current_model.evidence(frame, base_cells)
        new = self._accumulated_model.evidence(frame, cells)
        if new is not None:
            self._accumulated.combine(*new)
        if current is None:
            return None
        corner = -CELLS * RESOLUTION / 2
        grid = self._accumulated
        layers = grid.free, grid.occupied, grid.conflict
        return np.stack([*current[:2], *resample_to_base_axes(layers, cells, corner, corner)])

    def _cell_positions(self, frame: SensorFrame, name: str) -> NDArray[np.float32]:
        camera, pose = frame.intrinsics[name], frame.reference_from_sensor(name)
        cached = self._sample_uv.get(name)
        if cached is not None and cached[0] is camera and np.array_equal(cached[1], pose):
            return cached[2]
        positions = project_cells(camera, pose)
        self._sample_uv[name] = camera, pose, positions
        return positions


def project_cells(
    camera: CameraModel, base_from_camera: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Image positions (2, 72, 72, 2) of the cell centres at HEIGHTS_M: x and y, -1 to 1 over the image.

    OUTSIDE where a cell is not in the field of view. The ground is assumed to be flat at z = 0 within
    the 7 m of the grid.
    """
    x, y = GridGeometry.around_base(CELLS, RESOLUTION).centres(*np.mgrid[0:CELLS, 0:CELLS])
    camera_from_base = poses.inverse(base_from_camera)
    size = np.array([camera.width, camera.height])
    result = np.full((len(HEIGHTS_M), CELLS * CELLS, 2), OUTSIDE, np.float32)
    for k, height in enumerate(HEIGHTS_M):
        points = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, height)])
        pixels, visible = camera.project(poses.transform_points(camera_from_base, points))
        visible &= np.isfinite(pixels).all(axis=1)
        result[k, visible] = 2.0 * (pixels[visible] + 0.5) / size - 1.0
    return result.reshape(len(HEIGHTS_M), CELLS, CELLS, 2)


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, NDArray[Any]]]:
    """A function from recorded frames to the network's inputs, for the calibration of quantised engines.

    Frames must be passed in the order of their stamps. It raises UserError for a frame without
    fisheye and ultrasonic readings.
    """
    inputs = NearFieldInputs()

    def build(frame: SensorFrame) -> dict[str, NDArray[Any]]:
        arrays = inputs.build(frame)
        if arrays is None:
            raise UserError("the frame has neither fisheye cameras nor ultrasonic readings")
        return dict(arrays)

    return build
