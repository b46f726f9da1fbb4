"""Boxes in an image as boxes on the ground: what a camera alone can say of where things are.

The middle of a box's lower edge is where the object meets the ground plane; its ray, by the exact
camera model, gives that place, and the class the size. People are much of one height, which is a second
word on their distance, weighed with the first by how sure each is: a kerb alone puts feet a tenth
further. What this cannot know (pitch of the vehicle, the road's slope, the heading, an edge that is a
pixel off) is in the covariance, and the score is that of the image's box times the chance that the
box is within WITHIN of where it should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.image_boxes import areas, intersections
from multimodal_perception.perception import Boxes2D

# Metres within which a placed box is right: its score is the chance of that.
WITHIN = 2.0
# Pixels from the image's lower edge at which a box counts as cut off, and from its sides.
CUT = 1.5
# An object whose lower edge is inside another one that stands nearer may hide its feet behind it:
# so much less is known then.
HIDDEN = 3.0
# Of two boxes that overlap more than this from above, the better one is told.
OVERLAP = 0.2
# Heights that a box may mean at its place, as shares of the class's least and largest.
LEAST, MOST = 0.6, 1.6


@dataclass(frozen=True)
class Prior:
    """What a class of the image detector is on the ground: metres.

    label: of the package's classes. size: length, width, height. heights: least and largest. spread:
    standard deviation of half an object's extent along the view. inset: how far inside its outline
    an object touches the ground. alike: standard deviation of the height, as a share of it; infinite
    where it tells nothing.
    """

    label: str
    size: tuple[float, float, float]
    heights: tuple[float, float]
    spread: float
    inset: float
    alike: float


PRIORS = {
    "vehicle": Prior("car", (4.5, 1.8, 1.6), (1.2, 4.0), 0.7, 0.9, np.inf),
    "person": Prior("pedestrian", (0.6, 0.6, 1.65), (1.1, 2.0), 0.2, 0.2, 0.09),
    "cyclist": Prior("cyclist", (1.75, 0.6, 1.72), (1.4, 2.1), 0.4, 0.2, 0.07),
}


@dataclass(frozen=True)
class PlacingConfig:
    """How boxes in images become boxes on the ground.

    max_range: metres beyond which none is placed. ground_z: height of the ground in base_link.
    ground_sd: standard deviation of the ground's height where an object stands, kerbs included.
    pitch_deg: that of the camera's pitch against the ground, slopes included. edge_px: that of a
    box's edges, beside 3 percent of its height.
    """

    max_range: float = field(default=50.0, metadata={"min": 1.0, "max": 200.0, "unit": "m"})
    ground_z: float = field(default=0.0, metadata={"min": -10.0, "max": 10.0, "unit": "m"})
    ground_sd: float = field(default=0.07, metadata={"min": 0.0, "max": 5.0, "unit": "m"})
    pitch_deg: float = field(default=0.25, metadata={"min": 0.0, "max": 10.0, "unit": "deg"})
    edge_px: float = field(default=1.0, metadata={"min": 0.0, "max": 50.0, "unit": "px"})


def placed_boxes(
    found: Boxes2D,
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    stamp_ns: int,
    frame_id: str,
    config: PlacingConfig | None = None,
) -> Boxes3D:
    """Boxes on the ground in base_link, best score first, with covariances.

    model: of the camera, at the size of the boxes' image. base_from_camera: pose (4, 4) of the optical
    frame. Left out are boxes that the image's lower border cuts off, those whose lower edge does not
    meet the ground within max_range, and those whose height there their class cannot have.
    """
    config = config or PlacingConfig()
    rows, scores, labels, covariances = [], [], [], []
    hidden = _hidden(found.boxes)
    for i in range(len(found)):
        prior = PRIORS.get(found.class_names[found.labels[i]])
        if prior is None:
            continue
        placed = _place(found.boxes[i], prior, model, base_from_camera, bool(hidden[i]), config)
        if placed is None:
            continue
        row, along, across, bearing = placed
        rows.append(row)
        covariances.append(_covariance(along, across, bearing, prior))
        chance = erf(WITHIN / (np.sqrt(2.0) * max(along, across, 1e-6)))
        scores.append(float(found.scores[i]) * float(chance))
        labels.append(CLASS_NAMES.index(prior.label))
    order = np.argsort(-np.array(scores), kind="stable").astype(np.int64)
    return Boxes3D(
        stamp_ns,
        frame_id,
        np.array(rows, np.float32).reshape(-1, 7)[order],
        np.array(scores, np.float32)[order],
        np.array(labels, np.int64)[order],
        covariances=np.array(covariances, np.float32).reshape(-1, 6, 6)[order],
    )


def frame_boxes(
    found: Mapping[str, Boxes2D], frame: SensorFrame, config: PlacingConfig | None = None
) -> Boxes3D:
    """Boxes on the ground of all images of a frame, in its base_link at its stamp."""
    boxes = Boxes3D.empty(frame.stamp_ns, frame.base_frame)
    for name, seen in found.items():
        pose = frame.reference_from_sensor(name)
        model = frame.intrinsics[name]
        placed = placed_boxes(seen, model, pose, frame.stamp_ns, frame.base_frame, config)
        boxes = joined(boxes, placed)
    return boxes


def joined(first: Boxes3D, second: Boxes3D) -> Boxes3D:
    """Boxes of two detectors in one frame, best score first; of two that overlap much the better one.

    A box without covariance has zeros there, which means that it is not known.
    """
    if not len(second):
        return first
    parts = [b for b in (first, second) if len(b)]
    covariances = [
        np.zeros((len(b), 6, 6), np.float32) if b.covariances is None else b.covariances
        for b in parts
    ]
    boxes = np.concatenate([b.boxes for b in parts])
    scores = np.concatenate([b.scores for b in parts])
    both = Boxes3D(
        first.stamp_ns,
        first.frame_id,
        boxes,
        scores,
        np.concatenate([b.labels for b in parts]),
        covariances=np.concatenate(covariances),
    )
    return both.select(non_maximum_suppression(boxes, scores, OVERLAP))


def _place(
    box: NDArray[np.float32],
    prior: Prior,
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    hidden: bool,
    config: PlacingConfig,
) -> tuple[NDArray[np.float64], float, float, float] | None:
    """Box (7,), standard deviations along and across the view in metres, and the view's bearing."""
    x1, y1, x2, y2 = (float(v) for v in box)
    if y2 > model.height - CUT:
        return None
    middle, edge = (x1 + x2) / 2 - 0.5, config.edge_px + 0.03 * (y2 - y1)
    pixels = [(middle, y2 - 0.5), (middle, y1 - 0.5), (x1 - 0.5, y2 - 0.5), (x2 - 0.5, y2 - 0.5)]
    pixels += [(middle, y2 - 0.5 - edge)]
    rays = model.unproject(pixels) @ base_from_camera[:3, :3].T  # (5, 3)
    if not np.isfinite(rays).all():
        return None
    eye = base_from_camera[:3, 3]
    height = eye[2] - config.ground_z
    flat = np.linalg.norm(rays[:, :2], axis=1)
    down = np.arctan2(-rays[:, 2], flat)
    if height <= 0.0 or down[0] <= 0.0:
        return None
    distance, edge_angle = height / np.tan(down[0]), abs(down[0] - down[4])
    if distance > config.max_range:
        return None
    # d = h / tan(a), so a change of the angle moves the place by (d^2 + h^2) / h times as much.
    angle = np.hypot(np.radians(config.pitch_deg), edge_angle)
    along = angle * (distance**2 + height**2) / height
    along = np.hypot(along, distance * config.ground_sd / height) * (HIDDEN if hidden else 1.0)
    if np.isfinite(prior.alike):
        distance, along = _with_height(distance, along, down, edge_angle, prior)
    bearing = float(np.arctan2(rays[0, 1], rays[0, 0]))
    sides = np.arctan2(rays[2:4, 1], rays[2:4, 0])
    seen_width = distance * abs(poses.wrap_angle(sides[0] - sides[1]))
    yaw = _heading(prior, bearing, float(seen_width))
    half = _extent(prior, yaw - bearing) - prior.inset
    distance += half
    top = height - distance * np.tan(down[1])
    if not LEAST * prior.heights[0] <= top <= MOST * prior.heights[1]:
        return None
    tall = float(np.clip(top, *prior.heights))
    x, y = eye[:2] + distance * np.array([np.cos(bearing), np.sin(bearing)])
    row = np.array([x, y, config.ground_z + tall / 2, *prior.size[:2], tall, yaw])
    cut = x1 < CUT or x2 > model.width - CUT
    across = np.hypot(distance * edge_angle, prior.size[0] / 2 if cut else prior.spread / 2)
    return row, float(np.hypot(along, prior.spread)), float(across), bearing


def _with_height(
    distance: float, along: float, down: NDArray[np.float64], edge_angle: float, prior: Prior
) -> tuple[float, float]:
    """A distance and its standard deviation, weighed with what the class's height says of it."""
    spanned = np.tan(down[0]) - np.tan(down[1])  # height over distance
    by_height = prior.size[2] / spanned
    own = by_height * np.hypot(prior.alike, np.sqrt(2.0) * edge_angle / spanned)
    weight = along**2 / (along**2 + own**2)
    return distance + weight * (by_height - distance), along * own / np.hypot(along, own)


def _heading(prior: Prior, bearing: float, seen_width: float) -> float:
    """Along the vehicle's axis or across it, whichever explains the width; nobody could tell more."""
    lengths = []
    for yaw in (0.0, np.pi / 2):
        lengths.append(2 * _extent(prior, yaw - bearing + np.pi / 2))
    return 0.0 if abs(lengths[0] - seen_width) <= abs(lengths[1] - seen_width) else np.pi / 2


def _extent(prior: Prior, angle: float) -> float:
    """Half of what a footprint spans along a direction at an angle to its length."""
    length, width = prior.size[:2]
    return float(0.5 * (length * abs(np.cos(angle)) + width * abs(np.sin(angle))))


def _covariance(along: float, across: float, bearing: float, prior: Prior) -> NDArray[np.float64]:
    """(6, 6): the ellipse of the place, a tenth of the height, and a heading that is a guess."""
    c, s = np.cos(bearing), np.sin(bearing)
    turn = np.array([[c, -s], [s, c]])
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = turn @ np.diag([along**2, across**2]) @ turn.T
    covariance[2, 2] = (0.1 * prior.size[2]) ** 2
    covariance[3, 3] = covariance[4, 4] = np.radians(3.0) ** 2
    covariance[5, 5] = (np.pi / 4) ** 2
    return covariance


def _hidden(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of boxes (N, 4), whose lower edge another box that reaches lower covers by more than half."""
    edges = boxes.copy()
    edges[:, 1] = boxes[:, 3] - 1.0
    covered = intersections(edges, boxes) / np.maximum(areas(edges), 1e-6)[:, None]
    lower = boxes[None, :, 3] > boxes[:, None, 3] + 2.0
    return np.asarray((lower & (covered > 0.5)).any(axis=1), np.bool_)
