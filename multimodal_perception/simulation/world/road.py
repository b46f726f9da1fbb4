"""Curved and sloping roads: the surface of the ground, and meshes that are placed on it.

The world is generated as a straight strip along x. A Road maps it to the odom frame: s, the x of the
strip, is the arc length along the centre line, t the lateral position (left is positive), and h the
height above the ground. Heading, height and cross slope are sums of two sinusoids of s, so that a road
has no end and depends on nothing but its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multimodal_perception.simulation.world.meshes import Mesh, flat_shaded, vec3
from multimodal_perception.simulation.world.scene_objects import SceneObject

TABLE_STEP = 1.0  # arc length between two entries of the tables, metres
CHUNK = 2048  # entries that are added to the tables at once
# Lateral distance over which the cross slope levels out, metres.
CROSS_SLOPE_EXTENT = 25.0
# Maximum length of the edges of ground triangles, metres. With a radius of 80 m and a slope that
# changes by 0.25 % per metre, the ground is within 2 mm of the surface.
GROUND_EDGE = 2.0
# The ground of gardens and verges, which is wider and is farther away from the vehicle.
TERRAIN_EDGE = 5.0
# Height by which road markings are raised, so that triangles of the road do not cover them, metres.
MARKING_RAISE = 0.008
GROUND_CLASSES = ("road", "marking", "sidewalk", "kerb")
LONG_CLASSES = ("terrain", "barrier", "wall", "fence", "vegetation")


@dataclass(frozen=True)
class RoadShape:
    """Curvature and slopes of a road.

    Attributes:
        heading_amplitudes: Amplitudes of the two oscillations of the heading. Increase them for
            sharper bends; with the wavelength L the smallest radius is L / (2 pi amplitude), which
            must stay above the width of the scene.
        heading_wavelengths: Wavelengths of the two oscillations of the heading along the road. Decrease
            them for sharper and more frequent bends.
        height_amplitudes: Amplitudes of the two oscillations of the height. Increase them for higher
            hills; the steepest slope is 2 pi amplitude / wavelength.
        height_wavelengths: Wavelengths of the two oscillations of the height along the road. Decrease
            them for steeper slopes.
        cross_slope: Amplitude of the slope across the road, which changes sign along the road. Increase
            it for roads on hillsides; 0 keeps the cross-section level.
        phase: Phase of the oscillations. Change it to get another part of the same kind of road.
    """

    heading_amplitudes: tuple[float, float] = field(default=(0.0, 0.0), metadata={"unit": "rad"})
    heading_wavelengths: tuple[float, float] = field(default=(600.0, 270.0), metadata={"unit": "m"})
    height_amplitudes: tuple[float, float] = field(default=(0.0, 0.0), metadata={"unit": "m"})
    height_wavelengths: tuple[float, float] = field(default=(700.0, 260.0), metadata={"unit": "m"})
    cross_slope: float = field(default=0.0, metadata={"min": -0.2, "max": 0.2})
    phase: float = field(default=0.0, metadata={"unit": "rad"})

    def __post_init__(self) -> None:
        if min(*self.heading_wavelengths, *self.height_wavelengths) < 20.0:
            raise ValueError("heading_wavelengths and height_wavelengths: allowed: at least 20 m")
        if sum(abs(a) for a in self.heading_amplitudes) > 1.2:
            raise ValueError("heading_amplitudes: allowed: up to 1.2 rad together")


class Road:
    """The map from the strip (s, t, h) to the odom frame (x, y, z), and its inverse.

    The start of the strip (s = t = h = 0) is the origin of the odom frame.
    """

    def __init__(self, shape: RoadShape) -> None:
        self.shape = shape
        self._heading_terms = _terms(
            shape.heading_amplitudes, shape.heading_wavelengths, shape.phase
        )
        self._height_terms = _terms(
            shape.height_amplitudes, shape.height_wavelengths, 1.7 * shape.phase + 0.8
        )
        # Entries of the tables: x and y at s = k TABLE_STEP, for k from -(len(back) - 1) on.
        self._ahead = np.zeros((1, 2))
        self._behind = np.zeros((1, 2))

    def heading(self, s: ArrayLike) -> NDArray[np.float64]:
        """Direction of the centre line at s, radians from x of the odom frame."""
        s = np.asarray(s, np.float64)
        return sum(a * np.sin(k * s + p) for a, k, p in self._heading_terms)  # type: ignore[return-value]

    def curvature(self, s: ArrayLike) -> NDArray[np.float64]:
        """Curvature of the centre line at s, 1/m, positive to the left."""
        s = np.asarray(s, np.float64)
        return sum(a * k * np.cos(k * s + p) for a, k, p in self._heading_terms)  # type: ignore[return-value]

    def height(self, s: ArrayLike, t: ArrayLike) -> NDArray[np.float64]:
        """Height of the ground at (s, t) in the odom frame, metres."""
        s, t = np.asarray(s, np.float64), np.asarray(t, np.float64)
        along = sum(a * (np.sin(k * s + p) - math.sin(p)) for a, k, p in self._height_terms)
        return np.asarray(along + self._cross_slope(s) * _level_out(t), np.float64)

    def slopes(self, s: ArrayLike, t: ArrayLike) -> tuple[NDArray, NDArray]:
        """Slopes of the ground at (s, t): along the road (dz/ds) and across it (dz/dt)."""
        s, t = np.asarray(s, np.float64), np.asarray(t, np.float64)
        along = sum(a * k * np.cos(k * s + p) for a, k, p in self._height_terms)
        rate = 2 * math.pi / 430.0
        change = self.shape.cross_slope * rate * np.cos(rate * s + self.shape.phase)
        across = self._cross_slope(s) * (1.0 - np.tanh(t / CROSS_SLOPE_EXTENT) ** 2)
        return np.asarray(along + change * _level_out(t)), np.asarray(across)

    def _cross_slope(self, s: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.shape.cross_slope * np.sin(2 * math.pi / 430.0 * s + self.shape.phase)

    def centre(self, s: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 2) of the centre line at s in the odom frame, metres."""
        s = np.asarray(s, np.float64)
        self._extend(float(s.min(initial=0.0)), float(s.max(initial=0.0)))
        table = np.concatenate([self._behind[:0:-1], self._ahead])
        first = -(len(self._behind) - 1)
        index = np.clip(np.floor(s / TABLE_STEP).astype(np.int64) - first, 0, len(table) - 2)
        start = (index + first) * TABLE_STEP
        # Exact to 1e-7 m between two entries: the midpoint rule with the heading in the middle.
        step = s - start
        middle = self.heading(start + step / 2)
        bend = 1.0 - (self.curvature(start + step / 2) * step) ** 2 / 24.0
        direction = np.stack([np.cos(middle), np.sin(middle)], -1)
        return np.asarray(table[index] + (step * bend)[..., None] * direction)

    def _extend(self, low: float, high: float) -> None:
        """Add entries to the tables until they contain low and high."""
        while (len(self._ahead) - 2) * TABLE_STEP < high:
            self._ahead = self._longer(self._ahead, 1.0)
        while (len(self._behind) - 2) * TABLE_STEP < -low:
            self._behind = self._longer(self._behind, -1.0)

    def _longer(self, table: NDArray[np.float64], sign: float) -> NDArray[np.float64]:
        """The table with CHUNK further entries, integrated with the midpoint rule."""
        k = len(table) - 1 + np.arange(CHUNK)
        middle = sign * (k + 0.5) * TABLE_STEP
        bend = 1.0 - (self.curvature(middle) * TABLE_STEP) ** 2 / 24.0
        heading = self.heading(middle)
        steps = sign * TABLE_STEP * bend[:, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
        return np.concatenate([table, table[-1] + np.cumsum(steps, axis=0)])

    def to_odom(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points (N, 3) of the odom frame from points (N, 3) s, t, h of the strip."""
        p = np.asarray(points, np.float64).reshape(-1, 3)
        heading = self.heading(p[:, 0])
        result = np.empty_like(p)
        result[:, :2] = self.centre(p[:, 0])
        result[:, 0] -= p[:, 1] * np.sin(heading)
        result[:, 1] += p[:, 1] * np.cos(heading)
        result[:, 2] = self.height(p[:, 0], p[:, 1]) + p[:, 2]
        return result

    def to_strip(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Strip coordinates s, t (N, 2) of points (N, 2) of the odom frame, by Newton's method."""
        p = np.asarray(xy, np.float64).reshape(-1, 2)
        # The heading stays below 70 degrees, so x increases with s: a first guess from the table.
        low, high = float(p[:, 0].min(initial=0.0)), float(p[:, 0].max(initial=0.0))
        self._extend(3.0 * low - 100.0, 3.0 * high + 100.0)
        table = np.concatenate([self._behind[:0:-1], self._ahead])
        s = TABLE_STEP * np.interp(
            p[:, 0], table[:, 0], np.arange(len(table)) - (len(self._behind) - 1.0)
        )
        for _ in range(5):
            heading, offset = self.heading(s), p - self.centre(s)
            along = offset[:, 0] * np.cos(heading) + offset[:, 1] * np.sin(heading)
            across = offset[:, 1] * np.cos(heading) - offset[:, 0] * np.sin(heading)
            s = s + along / np.maximum(1.0 - self.curvature(s) * across, 0.3)
        heading, offset = self.heading(s), p - self.centre(s)
        across = offset[:, 1] * np.cos(heading) - offset[:, 0] * np.sin(heading)
        return np.column_stack([s, across])

    def pose(self, s: float, t: float, yaw: float, h: float = 0.0) -> NDArray[np.float64]:
        """Pose (4, 4) in the odom frame of an object that stands on the ground at (s, t).

        yaw: its direction in the strip, radians. h: height of its origin above the ground, metres. z of
        the pose is the normal of the ground.
        """
        pose = np.eye(4)
        pose[:3, :3] = self.frames(np.array([s]), np.array([t]), np.array([yaw]))[0]
        pose[:3, 3] = self.to_odom([[s, t, h]])[0]
        return pose

    def frames(
        self, s: NDArray[np.float64], t: NDArray[np.float64], yaw: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Rotations (N, 3, 3): x along the direction `yaw` on the ground, z the ground's normal."""
        along, across = self.slopes(s, t)
        # dz along the tangent at the lateral position t, whose length is 1 - curvature t.
        along = along / np.maximum(1.0 - self.curvature(s) * t, 0.3)
        heading = self.heading(s)
        forward = np.stack([np.cos(heading), np.sin(heading), along], -1)
        left = np.stack([-np.sin(heading), np.cos(heading), across], -1)
        up = np.cross(forward, left)
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        x = np.cos(yaw)[:, None] * forward + np.sin(yaw)[:, None] * left
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return np.stack([x, np.cross(up, x), up], axis=2)


def _terms(
    amplitudes: tuple[float, float], wavelengths: tuple[float, float], phase: float
) -> list[tuple[float, float, float]]:
    """Amplitude, wave number and phase of the two oscillations."""
    return [
        (amplitude, 2 * math.pi / wavelength, phase * (1.0 + 0.6 * k))
        for k, (amplitude, wavelength) in enumerate(zip(amplitudes, wavelengths, strict=True))
    ]


def _level_out(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lateral position, which stops to grow at about CROSS_SLOPE_EXTENT."""
    return CROSS_SLOPE_EXTENT * np.tanh(t / CROSS_SLOPE_EXTENT)


def place_rigid(
    scene_object: SceneObject, road: Road, start: float, origin: NDArray[np.float64]
) -> SceneObject:
    """An object of the strip, placed on the road without a change of its shape.

    start: s of the origin of the object's frame. origin: (3,) point of the odom frame that is the origin
    of the result. The object must have a bounding box; the result has the pitch of the ground below it.
    """
    box = scene_object.box
    assert box is not None
    anchor = np.array([box[0], box[1], 0.0])
    s = box[0] + start
    ground = road.pose(s, box[1], 0.0)
    rotation = ground[:3, :3]
    position = ground[:3, 3] - origin
    corners = scene_object.mesh.corners.astype(np.float64).reshape(-1, 3) - anchor
    mesh = Mesh(
        (corners @ rotation.T + position).reshape(-1, 3, 3).astype(np.float32),
        (scene_object.mesh.normals @ rotation.T.astype(np.float32)),
        scene_object.mesh.materials,
    )
    centre = rotation @ np.array([0.0, 0.0, box[2]]) + position
    forward = rotation @ np.array([math.cos(box[6]), math.sin(box[6]), 0.0])
    yaw = math.atan2(forward[1], forward[0])
    speed = scene_object.velocity
    stretch = 1.0 - float(road.curvature(s)) * box[1]
    velocity = rotation @ np.array([speed[0] * stretch, speed[1], 0.0])
    return replace(
        scene_object,
        mesh=mesh,
        box=(*(float(v) for v in centre), *box[3:6], yaw),
        velocity=(float(velocity[0]), float(velocity[1])),
        ground=float(position[2]),
        pitch=float(math.asin(max(-1.0, min(1.0, float(forward[2]))))),
    )


def bend_mesh(
    mesh: Mesh, semantic_class: str, road: Road, start: float, origin: NDArray[np.float64]
) -> Mesh:
    """A mesh of the strip, bent along the road. Long triangles of the ground are divided first.

    start: s of the origin of the mesh's frame. origin: (3,) as in place_rigid.
    """
    if semantic_class in GROUND_CLASSES:
        mesh = divided(mesh, GROUND_EDGE)
    elif semantic_class in LONG_CLASSES:
        mesh = divided(mesh, TERRAIN_EDGE)
    flat = mesh.corners.astype(np.float64).reshape(-1, 3)
    if semantic_class == "marking":
        flat = flat + vec3(0.0, 0.0, MARKING_RAISE)
    flat = flat + vec3(start, 0.0, 0.0)
    rotations = road.frames(flat[:, 0], flat[:, 1], np.zeros(len(flat)))
    corners = (road.to_odom(flat) - origin).reshape(-1, 3, 3)
    normals = np.einsum("nij,nj->ni", rotations, mesh.normals.reshape(-1, 3))
    return Mesh(
        corners.astype(np.float32),
        normals.reshape(-1, 3, 3).astype(np.float32),
        mesh.materials,
    )


def divided(mesh: Mesh, max_edge: float) -> Mesh:
    """The mesh with triangles divided at their longest edge until no edge is longer than max_edge."""
    corners, normals, materials = mesh.corners, mesh.normals, mesh.materials
    done: list[Mesh] = []
    while len(corners):
        edges = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
        short = edges.max(axis=1) <= max_edge
        done.append(Mesh(corners[short], normals[short], materials[short]))
        corners, normals = corners[~short], normals[~short]
        materials, edges = materials[~short], edges[~short]
        rows, first = np.arange(len(corners)), edges.argmax(axis=1)
        second, third = (first + 1) % 3, (first + 2) % 3
        middle = (corners[rows, first] + corners[rows, second]) / 2
        normal = normals[rows, first] + normals[rows, second]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        parts = []
        for a, b in ((first, middle), (middle, second)):
            p = [corners[rows, v] if v.ndim == 1 else v for v in (a, b)]
            q = [normals[rows, v] if v.ndim == 1 else normal for v in (a, b)]
            parts.append(
                (
                    np.stack([p[0], p[1], corners[rows, third]], axis=1),
                    np.stack([q[0], q[1], normals[rows, third]], axis=1),
                )
            )
        corners = np.concatenate([c for c, _ in parts])
        normals = np.concatenate([n for _, n in parts])
        materials = np.concatenate([materials, materials])
    if not done:
        return mesh
    return Mesh(
        np.concatenate([m.corners for m in done]),
        np.concatenate([m.normals for m in done]),
        np.concatenate([m.materials for m in done]),
    )


def distant_ground(road: Road, centre: float, origin: NDArray[np.float64], material: int) -> Mesh:
    """The ground up to 400 m around the vehicle in coarse cells, a little below that of the blocks.

    centre: s of the middle. origin: (3,) as in place_rigid.
    """
    axis = np.concatenate([np.arange(-400.0, 401.0, 20.0)])
    middle = road.to_odom([[centre, 0.0, 0.0]])[0]
    x, y = np.meshgrid(axis + middle[0], axis + middle[1], indexing="ij")
    strip = road.to_strip(np.column_stack([x.ravel(), y.ravel()]))
    z = road.height(strip[:, 0], strip[:, 1]).reshape(x.shape) - 0.25
    points = np.stack([x, y, z], -1) - origin
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    triangles = np.concatenate(
        [np.stack([a, b, c], 2).reshape(-1, 3, 3), np.stack([a, c, d], 2).reshape(-1, 3, 3)]
    )
    return flat_shaded(triangles, np.full(len(triangles), material, np.uint8))
