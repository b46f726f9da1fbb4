"""What the learned near field sees of a frame: fisheye images, where cells lie in them, and echoes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.occupancy.cells import Cells
from multimodal_perception.occupancy.evidence import EvidentialGrid, GridConfig
from multimodal_perception.occupancy.evidential import turned
from multimodal_perception.occupancy.ultrasonic import UltrasonicModel
from multimodal_perception.runtime.card import ModelCard

CELLS, RESOLUTION = 72, 0.2
CAMERAS = 4
IMAGE_ROWS, IMAGE_COLUMNS = 112, 192
# Feet and knees: heights over the ground at which cells are looked up in the images.
HEIGHTS_M = (0.05, 0.6)
NOWHERE = -2.0
# ImageNet's weights of EfficientNet-Lite take pixels so.
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
SOUND_HALF_LIFE_S = 4.0


class NearFieldInputs:
    """Frames to the network's inputs; remembers echoes while odometry tells how the vehicle moves.

    counts: why a camera was not used.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._now, self._past = UltrasonicModel(), UltrasonicModel()
        self._memory = EvidentialGrid(CELLS, RESOLUTION, GridConfig(half_life=SOUND_HALF_LIFE_S))
        self._places: dict[str, tuple[CameraModel, NDArray[np.float64], NDArray[np.float32]]] = {}

    def arrays(self, frame: SensorFrame) -> dict[str, NDArray[np.float32]] | None:
        """images (1, 4, 3, 112, 192), lookup (1, 4, 2, 72, 72, 2), sound (1, 5, 72, 72), sounding (1,).

        None when the frame has neither fisheyes nor ultrasonics.
        """
        images = np.zeros((CAMERAS, 3, IMAGE_ROWS, IMAGE_COLUMNS), np.float32)
        lookup = np.full((CAMERAS, len(HEIGHTS_M), CELLS, CELLS, 2), NOWHERE, np.float32)
        names = self.fisheyes(frame)
        for k, name in enumerate(names):
            rgb = frame.cameras[name].rgb()
            small = cv2.resize(rgb, (IMAGE_COLUMNS, IMAGE_ROWS), interpolation=cv2.INTER_AREA)
            images[k] = (small.transpose(2, 0, 1).astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE
            lookup[k] = self._place(frame, name)
        sound = self.sound(frame)
        if not names and sound is None:
            return None
        sounding = np.array([sound is not None], np.float32)
        if sound is None:
            sound = np.zeros((5, CELLS, CELLS), np.float32)
        return {
            "images": images[None],
            "lookup": lookup[None],
            "sound": sound[None],
            "sounding": sounding,
        }

    def fisheyes(self, frame: SensorFrame) -> list[str]:
        """The frame's fisheye cameras that can be placed, at most four, by name."""
        names: list[str] = []
        for name in sorted(frame.cameras):
            camera = frame.intrinsics.get(name)
            if camera is None or camera.model != "equidistant":
                continue
            if name not in frame.base_from_sensor:
                self.counts["no_extrinsics"] += 1
            elif not poses.is_rigid(frame.reference_from_sensor(name)):
                self.counts["bad_pose"] += 1
            elif len(names) == CAMERAS:
                self.counts["too_many_fisheyes"] += 1
            else:
                names.append(name)
        return names

    def sound(self, frame: SensorFrame) -> NDArray[np.float32] | None:
        """Echoes from above (5, 72, 72) along base_link's axes, None without any that can be used.

        Free and occupied mass of this frame's; free, occupied and conflict of all that are remembered.
        """
        cells = self._memory.advance(frame.stamp_ns, frame.odom_from_base)
        fresh = self._now.evidence(frame, Cells.around_base(CELLS, RESOLUTION))
        past = self._past.evidence(frame, cells)
        if past is not None:
            self._memory.combine(*past)
        if fresh is None:
            return None
        corner = -CELLS * RESOLUTION / 2
        kept = self._memory.free, self._memory.occupied, self._memory.conflict
        return np.stack([*fresh[:2], *turned(kept, cells, corner, corner)])

    def _place(self, frame: SensorFrame, name: str) -> NDArray[np.float32]:
        camera, pose = frame.intrinsics[name], frame.reference_from_sensor(name)
        known = self._places.get(name)
        if known is not None and known[0] is camera and np.array_equal(known[1], pose):
            return known[2]
        place = look_up(camera, pose)
        self._places[name] = camera, pose, place
        return place


def look_up(camera: CameraModel, base_from_camera: NDArray[np.float64]) -> NDArray[np.float32]:
    """Where in an image the middle of each cell lies (2, 72, 72, 2): x and y, -1 to 1 over the image.

    -2 where the camera does not see it. The ground is taken as flat at 0: within 7 m it nearly is.
    """
    x, y = Cells.around_base(CELLS, RESOLUTION).middles(*np.mgrid[0:CELLS, 0:CELLS])
    camera_from_base = poses.inverse(base_from_camera)
    size = np.array([camera.width, camera.height])
    result = np.full((len(HEIGHTS_M), CELLS * CELLS, 2), NOWHERE, np.float32)
    for k, height in enumerate(HEIGHTS_M):
        points = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, height)])
        pixels, seen = camera.project(poses.transform_points(camera_from_base, points))
        seen &= np.isfinite(pixels).all(axis=1)
        result[k, seen] = 2.0 * (pixels[seen] + 0.5) / size - 1.0
    return result.reshape(len(HEIGHTS_M), CELLS, CELLS, 2)


def frame_inputs(card: ModelCard) -> Callable[[SensorFrame], dict[str, NDArray[Any]]]:
    """What calibration feeds the network of a card from frames in their order."""
    inputs = NearFieldInputs()

    def of(frame: SensorFrame) -> dict[str, NDArray[Any]]:
        arrays = inputs.arrays(frame)
        if arrays is None:
            raise UserError("the frame has neither fisheyes nor ultrasonics")
        return dict(arrays)

    return of
