"""A training frame turned, mirrored, scaled and thinned, and what of its sensors is there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses

# Between the rings that a thinned LiDAR keeps, as of an HDL-32E and a VLP-16 and of one between an
# HDL-64E and those; how much of it is kept, so that a ring of an HDL-64E is. Degrees.
BEAM_STEPS, BEAM_WIDTH = (2 / 3, 4 / 3, 2.0), 0.3


@dataclass(frozen=True)
class AugmentationConfig:
    """How frames are varied. Angles in radians, lengths in metres.

    turn: largest rotation about z. mirror: share of frames mirrored, along each axis. scale: largest
    change of size. lift: largest change of height. thin: share of frames that lose up to half of their
    points; fade: largest change of intensities, as a factor; contrast: largest logarithm of the power
    that they are raised to; paint: largest change of the intensities of one object, as a factor. beams:
    share of frames whose LiDAR has fewer rings, BEAM_STEPS apart, as with cheaper units.
    """

    turn: float = field(default=0.8, metadata={"min": 0.0, "max": 3.1416, "unit": "rad"})
    mirror: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    scale: float = field(default=0.05, metadata={"min": 0.0, "max": 0.5})
    lift: float = field(default=0.12, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    thin: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    fade: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    contrast: float = field(default=0.0, metadata={"min": 0.0, "max": 2.0})
    paint: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    beams: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})


@dataclass(frozen=True)
class DropoutConfig:
    """Shares of training frames in which sensors are missing; the rest has all.

    images: neither cameras nor thermal. lidar: no LiDAR. cameras, thermals, ultrasonics: these alone.
    blind_weight: how much a frame without LiDAR counts in the loss of the proposals. What images alone
    can't place would else outweigh what the LiDAR tells exactly.
    """

    images: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    lidar: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    cameras: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    thermals: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    ultrasonics: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    blind_weight: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})

    def __post_init__(self) -> None:
        if self.images + self.lidar + self.cameras + self.thermals > 1.0:
            raise ValueError("images, lidar, cameras and thermals must not sum to more than 1")


@dataclass(frozen=True)
class Present:
    """Which kinds of sensor a training frame shows to the network."""

    lidar: bool
    cameras: bool
    thermals: bool
    ultrasonics: bool


def draw_present(config: DropoutConfig, rng: np.random.Generator) -> Present:
    """What is there in a frame."""
    draw = rng.random()
    edges = np.cumsum([config.images, config.lidar, config.cameras, config.thermals])
    case = int(np.searchsorted(edges, draw, side="right"))
    return Present(
        lidar=case != 1,
        cameras=case not in (0, 2),
        thermals=case not in (0, 3),
        ultrasonics=bool(rng.random() >= config.ultrasonics),
    )


def draw_motion(config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """grid_from_base (4, 4): rotation about z, mirrors, scale and lift."""
    motion = poses.from_xyz_rpy(
        (0.0, 0.0, rng.uniform(-config.lift, config.lift)),
        (0.0, 0.0, rng.uniform(-config.turn, config.turn)),
    )
    sides = [-1.0 if rng.random() < config.mirror else 1.0 for _ in range(2)]
    size = 1.0 + rng.uniform(-config.scale, config.scale)
    return motion @ np.diag([sides[0] * size, sides[1] * size, size, 1.0])


def moved_points(
    points: NDArray[np.float32], grid_from_base: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Points (N, 4) moved, intensities kept."""
    moved = points.copy()
    moved[:, :3] = poses.transform_points(grid_from_base, points[:, :3])
    return moved


def moved_boxes(
    boxes: NDArray[np.float32], grid_from_base: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Boxes (K, 7) moved by a rotation about z, mirrors and an even scale."""
    moved = boxes.copy()
    moved[:, :3] = poses.transform_points(grid_from_base, boxes[:, :3])
    ahead = np.column_stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])])
    ahead = ahead @ grid_from_base[:2, :2].T
    moved[:, 3:6] *= abs(np.linalg.det(grid_from_base[:3, :3])) ** (1 / 3)
    moved[:, 6] = np.arctan2(ahead[:, 1], ahead[:, 0])
    return moved


def moved_echoes(
    rows: NDArray[np.float32], grid_from_base: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Ultrasonic rows (U, 8) moved; ranges grow with the scale."""
    moved = rows.copy()
    if not len(rows):
        return moved
    as_boxes = np.ones((len(rows), 7), np.float32)
    as_boxes[:, :3], as_boxes[:, 6] = rows[:, :3], rows[:, 3]
    as_boxes = moved_boxes(as_boxes, grid_from_base)
    moved[:, :3], moved[:, 3] = as_boxes[:, :3], as_boxes[:, 6]
    moved[:, 4:7] *= as_boxes[0, 3]
    return moved


def fewer_beams(
    points: NDArray[np.float32],
    lidar: NDArray[np.float32],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Points (N, 4) of a LiDAR at (3,), sometimes of rings far apart alone."""
    if rng.random() >= config.beams:
        return points
    step = rng.choice(BEAM_STEPS)
    seen = points[:, :3] - lidar
    elevation = np.degrees(np.arctan2(seen[:, 2], np.hypot(seen[:, 0], seen[:, 1])))
    return points[(elevation + rng.uniform(0, step)) % step < BEAM_WIDTH]


def thinned(
    points: NDArray[np.float32], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Points (N, 4), sometimes fewer, their intensities brighter or darker, of more contrast or less."""
    if rng.random() < config.thin:
        points = points[rng.random(len(points)) < rng.uniform(0.5, 1.0)]
    points = points.copy()
    gain = 1.0 + rng.uniform(-config.fade, config.fade)
    power = np.exp(rng.uniform(-config.contrast, config.contrast)) if config.contrast else 1.0
    points[:, 3] = np.clip(points[:, 3] ** np.float32(power) * np.float32(gain), 0.0, 1.0)
    return points


def painted(
    points: NDArray[np.float32],
    boxes: NDArray[np.float32],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Points (N, 4), those in each of the boxes (K, 7) brighter or darker than they were."""
    if not config.paint or not len(boxes):
        return points
    points = points.copy()
    gains = (1.0 + rng.uniform(-config.paint, config.paint, len(boxes))).astype(np.float32)
    _paint(points, boxes.astype(np.float32), gains)
    return points


@numba.njit(cache=True)
def _paint(points, boxes, gains):  # type: ignore[no-untyped-def]
    for k in range(len(boxes)):
        b = boxes[k]
        c, s = np.cos(b[6]), np.sin(b[6])
        away = 0.5 * np.sqrt(b[3] ** 2 + b[4] ** 2)
        for i in range(len(points)):
            x, y = points[i, 0] - b[0], points[i, 1] - b[1]
            if abs(x) > away or abs(y) > away or abs(points[i, 2] - b[2]) > b[5] / 2:
                continue
            if abs(c * x + s * y) < b[3] / 2 and abs(c * y - s * x) < b[4] / 2:
                points[i, 3] = min(points[i, 3] * gains[k], np.float32(1.0))
