"""Triangle meshes with one material per triangle, and the primitive solids that objects consist of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multimodal_perception.simulation.world.materials import Material

# Faces that meet at a larger angle keep a sharp edge in the shading.
CREASE_COSINE = float(np.cos(np.radians(50.0)))


@dataclass(frozen=True)
class Mesh:
    """Triangles of one object.

    corners, normals: (T, 3, 3) float32, position in metres and unit shading normal of each corner.
    materials: (T,) uint8, row of each triangle's material in materials.MATERIAL_TABLE.
    """

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    materials: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.corners)

    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Minimum and maximum corner (x, y, z) of the axis-aligned bounding box, each (3,)."""
        flat = self.corners.reshape(-1, 3)
        return flat.min(axis=0), flat.max(axis=0)

    def moved_to(self, xyz: ArrayLike, yaw: float = 0.0) -> Mesh:
        """The mesh rotated about z by `yaw` radians and then translated by `xyz` metres."""
        if yaw == 0.0:
            shift = np.asarray(xyz, np.float64)
            return Mesh((self.corners + shift).astype(np.float32), self.normals, self.materials)
        c, s = np.cos(yaw), np.sin(yaw)
        # Transposed rotation matrix, because the corners are row vectors.
        rotation = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        corners = self.corners.astype(np.float64) @ rotation + np.asarray(xyz, np.float64)
        normals = self.normals @ rotation.astype(np.float32)
        return Mesh(corners.astype(np.float32), normals, self.materials)

    def scaled_to(self, length: float, width: float, height: float) -> Mesh:
        """The mesh scaled to exactly this size in metres, centred on x = y = 0, standing on z = 0."""
        low, high = self.bounds()
        size = np.array([length, width, height])
        origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        scale = size / (high - low)
        corners = (self.corners - origin) * scale
        normals = self.normals / scale
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        return Mesh(corners.astype(np.float32), normals.astype(np.float32), self.materials)


def vec3(x: float, y: float, z: float) -> NDArray[np.float64]:
    """A point or offset (3,) float64."""
    return np.array([x, y, z], np.float64)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Concatenate meshes into one; an empty sequence gives an empty mesh."""
    if not meshes:
        none = np.zeros((0, 3, 3), np.float32)
        return Mesh(none, none, np.zeros(0, np.uint8))
    return Mesh(
        np.concatenate([m.corners for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.materials for m in meshes]),
    )


def flat_shaded(corners: ArrayLike, material: Material | NDArray[np.uint8]) -> Mesh:
    """A mesh of triangles (T, 3, 3) with face normals; triangles without area are removed."""
    corners = np.asarray(corners, np.float64).reshape(-1, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    keep = area > 1e-9
    materials = np.broadcast_to(np.asarray(material, np.uint8), len(corners))[keep]
    normals = np.repeat((normal[keep] / area[keep, None])[:, None], 3, axis=1)
    return Mesh(
        corners[keep].astype(np.float32), normals.astype(np.float32), materials.astype(np.uint8)
    )


def smooth_shaded(mesh: Mesh, crease: float = CREASE_COSINE) -> Mesh:
    """Average the normals of adjacent faces, weighted by area, except across sharp edges.

    crease: cosine of the angle between face normals beyond which an edge stays sharp (50 degrees).
    """
    flat = mesh.corners.reshape(-1, 3)
    _, vertex = np.unique(np.round(flat * 2000).astype(np.int64), axis=0, return_inverse=True)
    order = np.argsort(vertex.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(vertex.ravel()[order], prepend=-1))
    edges = mesh.corners[:, 1:] - mesh.corners[:, :1]
    weighted = np.repeat(np.cross(edges[:, 0], edges[:, 1]), 3, axis=0)
    unit = mesh.normals.reshape(-1, 3)
    result = unit.copy()
    for group in np.split(order, starts[1:]):
        is_smooth = unit[group] @ unit[group].T > crease
        total = is_smooth.astype(np.float32) @ weighted[group]
        length = np.linalg.norm(total, axis=1, keepdims=True)
        result[group] = np.where(length > 1e-12, total / np.maximum(length, 1e-12), unit[group])
    return Mesh(mesh.corners, result.reshape(-1, 3, 3), mesh.materials)


def jittered(mesh: Mesh, rng: np.random.Generator, sigma: float) -> Mesh:
    """The mesh with normally distributed vertex offsets; coincident corners move together.

    sigma: standard deviation of the offset along each axis, metres.
    """
    flat = mesh.corners.reshape(-1, 3)
    _, vertex = np.unique(np.round(flat * 1000).astype(np.int64), axis=0, return_inverse=True)
    offsets = rng.normal(0.0, sigma, (int(vertex.max()) + 1, 3))
    moved = flat_shaded((flat + offsets[vertex.ravel()]).reshape(-1, 3, 3), mesh.materials)
    return smooth_shaded(moved, -1.0)


def quad(corners: ArrayLike, material: Material) -> Mesh:
    """A planar quadrilateral from its corners (4, 3) in order around the face."""
    c = np.asarray(corners, np.float64)
    return flat_shaded([c[[0, 1, 2]], c[[0, 2, 3]]], material)


def rectangle(x0: float, x1: float, y0: float, y1: float, z: float, material: Material) -> Mesh:
    """A horizontal rectangle at height z."""
    return quad([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]], material)


def cuboid(
    low: ArrayLike, high: ArrayLike, material: Material, top: Material | None = None
) -> Mesh:
    """An axis-aligned box between two opposite corners; `top` is the material of its upper face."""
    corner = np.stack([np.asarray(low, float), np.asarray(high, float)])
    triangles = corner[_CUBOID, np.arange(3)]
    materials = np.full(12, material, np.uint8)
    materials[8:10] = material if top is None else top
    return flat_shaded(triangles, materials)


# For each corner of the 12 triangles, index 0 (low) or 1 (high) of its x, y and z: four sides, then
# the top and the bottom.
_CUBOID_SIDES = [(0, 0, 1, 0), (1, 0, 1, 1), (1, 1, 0, 1), (0, 1, 0, 0)]
_CUBOID = np.array(
    [
        triangle
        for a, b, c, d in _CUBOID_SIDES
        for triangle in (
            ((a, b, 0), (c, d, 0), (c, d, 1)),
            ((a, b, 0), (c, d, 1), (a, b, 1)),
        )
    ]
    + [((0, 0, 1), (1, 0, 1), (1, 1, 1)), ((0, 0, 1), (1, 1, 1), (0, 1, 1))]
    + [((0, 1, 0), (1, 1, 0), (1, 0, 0)), ((0, 1, 0), (1, 0, 0), (0, 0, 0))]
)


def loft(rings: NDArray[np.float64], materials: NDArray[np.uint8], capped: bool = True) -> Mesh:
    """A surface through S closed rings of P points.

    rings: (S, P, 3) metres. materials: (S - 1, P) uint8, one for each cell between two rings. capped:
    whether flat faces close the first and the last ring.
    """
    following = np.roll(rings, -1, axis=1)
    a, b, c, d = rings[:-1], following[:-1], following[1:], rings[1:]
    triangles = np.stack([np.stack([a, b, c], 2), np.stack([a, c, d], 2)], axis=2)
    skin = flat_shaded(triangles.reshape(-1, 3, 3), np.repeat(materials.reshape(-1), 2))
    if not capped:
        return smooth_shaded(skin)
    caps = []
    for ring, material, winding in (
        (rings[0], materials[0, 0], 1),
        (rings[-1], materials[-1, 0], -1),
    ):
        fan = [[ring.mean(axis=0), p, q] for p, q in zip(ring, np.roll(ring, -1, 0), strict=True)]
        caps.append(flat_shaded(np.array(fan)[:, ::-winding], material))
    return merge([smooth_shaded(skin), *caps])


def tube(
    start: ArrayLike,
    end: ArrayLike,
    radius: float,
    material: Material,
    end_radius: float | None = None,
    sides: int = 6,
    capped: bool = True,
) -> Mesh:
    """A cylinder or truncated cone between two points; `end_radius` defaults to `radius`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, (0.0, 0.0, 1.0) if abs(axis[2]) < 0.9 else (1.0, 0.0, 0.0))
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angle = np.arange(sides) * 2 * np.pi / sides
    circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    last = radius if end_radius is None else end_radius
    rings = np.stack([start + radius * circle, end + last * circle])
    return loft(rings, np.full((1, sides), material, np.uint8), capped)


def ellipsoid(
    centre: ArrayLike, radii: ArrayLike, material: Material, rows: int = 5, columns: int = 8
) -> Mesh:
    """An axis-aligned ellipsoid of `rows` by `columns` cells."""
    polar = np.linspace(0, np.pi, rows + 1)[:, None]
    angle = np.arange(columns) * 2 * np.pi / columns
    unit = np.stack(
        [np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), -np.cos(polar) + 0 * angle],
        axis=-1,
    )
    rings = np.asarray(centre, float) + np.asarray(radii, float) * unit
    return loft(rings, np.full((rows, columns), material, np.uint8), capped=False)


def disc(
    centre: ArrayLike, radius: float, side: float, material: Material, corners: int = 12
) -> Mesh:
    """A vertical disc in the x-z plane; `side` is the sign of the y direction that it faces."""
    angle = np.arange(corners + 1) * 2 * np.pi / corners
    circle = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1)
    origin = np.asarray(centre, float)
    out = origin + radius * circle
    triangles = np.stack([np.broadcast_to(origin, out[1:].shape), out[1:], out[:-1]], axis=1)
    return flat_shaded(triangles if side > 0 else triangles[:, ::-1], material)


def centred(mesh: Mesh) -> Mesh:
    """The mesh moved so that its bounding box is centred on x = y = 0 and stands on z = 0."""
    low, high = mesh.bounds()
    return mesh.moved_to((-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]))
