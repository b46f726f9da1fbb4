"""Triangle soups with a material each, and the solids that things are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multimodal_perception.simulation.world.materials import Material

# Faces that meet at a sharper angle keep their edge in the shading.
CREASE = float(np.cos(np.radians(50.0)))


@dataclass(frozen=True)
class Mesh:
    """Triangles of one thing, metres.

    corners, normals: (T, 3, 3) float32, positions and unit shading normals of each corner.
    materials: (T,) uint8, rows of materials.TABLE.
    """

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    materials: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.corners)

    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest x y z, each (3,)."""
        flat = self.corners.reshape(-1, 3)
        return flat.min(axis=0), flat.max(axis=0)

    def placed(self, xyz: ArrayLike, yaw: float = 0.0) -> Mesh:
        """The mesh turned about z and moved."""
        if yaw == 0.0:
            shift = np.asarray(xyz, np.float64)
            return Mesh((self.corners + shift).astype(np.float32), self.normals, self.materials)
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        corners = self.corners.astype(np.float64) @ turn + np.asarray(xyz, np.float64)
        normals = self.normals @ turn.astype(np.float32)
        return Mesh(corners.astype(np.float32), normals, self.materials)

    def fitted(self, length: float, width: float, height: float) -> Mesh:
        """Stretched to exactly this size, x and y about 0, standing on z = 0."""
        low, high = self.bounds()
        size = np.array([length, width, height])
        middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        scale = size / (high - low)
        corners = (self.corners - middle) * scale
        normals = self.normals / scale
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        return Mesh(corners.astype(np.float32), normals.astype(np.float32), self.materials)


def at(x: float, y: float, z: float) -> NDArray[np.float64]:
    """A point or offset (3,)."""
    return np.array([x, y, z], np.float64)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """All triangles of several meshes; no meshes give an empty one."""
    if not meshes:
        none = np.zeros((0, 3, 3), np.float32)
        return Mesh(none, none, np.zeros(0, np.uint8))
    return Mesh(
        np.concatenate([m.corners for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.materials for m in meshes]),
    )


def faceted(corners: ArrayLike, material: Material | NDArray[np.uint8]) -> Mesh:
    """Flat triangles (T, 3, 3); those without an area are left out."""
    corners = np.asarray(corners, np.float64).reshape(-1, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    keep = area > 1e-9
    materials = np.broadcast_to(np.asarray(material, np.uint8), len(corners))[keep]
    normals = np.repeat((normal[keep] / area[keep, None])[:, None], 3, axis=1)
    return Mesh(
        corners[keep].astype(np.float32), normals.astype(np.float32), materials.astype(np.uint8)
    )


def smoothed(mesh: Mesh, crease: float = CREASE) -> Mesh:
    """Normals averaged where faces meet at less than an angle of cosine `crease`, 50 degrees."""
    flat = mesh.corners.reshape(-1, 3)
    _, place = np.unique(np.round(flat * 2000).astype(np.int64), axis=0, return_inverse=True)
    order = np.argsort(place.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(place.ravel()[order], prepend=-1))
    edges = mesh.corners[:, 1:] - mesh.corners[:, :1]
    weighted = np.repeat(np.cross(edges[:, 0], edges[:, 1]), 3, axis=0)
    unit = mesh.normals.reshape(-1, 3)
    result = unit.copy()
    for group in np.split(order, starts[1:]):
        near = unit[group] @ unit[group].T > crease
        total = near.astype(np.float32) @ weighted[group]
        length = np.linalg.norm(total, axis=1, keepdims=True)
        result[group] = np.where(length > 1e-12, total / np.maximum(length, 1e-12), unit[group])
    return Mesh(mesh.corners, result.reshape(-1, 3, 3), mesh.materials)


def ruffled(mesh: Mesh, rng: np.random.Generator, amount: float) -> Mesh:
    """Corners moved at random by so many metres, those that touch together."""
    flat = mesh.corners.reshape(-1, 3)
    _, place = np.unique(np.round(flat * 1000).astype(np.int64), axis=0, return_inverse=True)
    moves = rng.normal(0.0, amount, (int(place.max()) + 1, 3))
    moved = faceted((flat + moves[place.ravel()]).reshape(-1, 3, 3), mesh.materials)
    return smoothed(moved, -1.0)


def quad(corners: ArrayLike, material: Material) -> Mesh:
    """A flat face of four corners (4, 3) in turn."""
    c = np.asarray(corners, np.float64)
    return faceted([c[[0, 1, 2]], c[[0, 2, 3]]], material)


def patch(x0: float, x1: float, y0: float, y1: float, z: float, material: Material) -> Mesh:
    """A level rectangle."""
    return quad([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]], material)


def block(low: ArrayLike, high: ArrayLike, material: Material, top: Material | None = None) -> Mesh:
    """An upright box from its lowest to its highest corner."""
    corner = np.stack([np.asarray(low, float), np.asarray(high, float)])
    triangles = corner[_BLOCK, np.arange(3)]
    materials = np.full(12, material, np.uint8)
    materials[8:10] = material if top is None else top
    return faceted(triangles, materials)


# Of each corner of the 12 triangles, whether x, y and z are the highest: four sides, top, bottom.
_SIDES = [(0, 0, 1, 0), (1, 0, 1, 1), (1, 1, 0, 1), (0, 1, 0, 0)]
_BLOCK = np.array(
    [
        triangle
        for a, b, c, d in _SIDES
        for triangle in (
            ((a, b, 0), (c, d, 0), (c, d, 1)),
            ((a, b, 0), (c, d, 1), (a, b, 1)),
        )
    ]
    + [((0, 0, 1), (1, 0, 1), (1, 1, 1)), ((0, 0, 1), (1, 1, 1), (0, 1, 1))]
    + [((0, 1, 0), (1, 1, 0), (1, 0, 0)), ((0, 1, 0), (1, 0, 0), (0, 0, 0))]
)


def loft(rings: NDArray[np.float64], materials: NDArray[np.uint8], ends: bool = True) -> Mesh:
    """A skin over closed rings (S, P, 3), flat at its ends; materials (S - 1, P) of its cells."""
    following = np.roll(rings, -1, axis=1)
    a, b, c, d = rings[:-1], following[:-1], following[1:], rings[1:]
    triangles = np.stack([np.stack([a, b, c], 2), np.stack([a, c, d], 2)], axis=2)
    skin = faceted(triangles.reshape(-1, 3, 3), np.repeat(materials.reshape(-1), 2))
    if not ends:
        return smoothed(skin)
    flat = []
    for ring, material, turn in ((rings[0], materials[0, 0], 1), (rings[-1], materials[-1, 0], -1)):
        fan = [[ring.mean(axis=0), p, q] for p, q in zip(ring, np.roll(ring, -1, 0), strict=True)]
        flat.append(faceted(np.array(fan)[:, ::-turn], material))
    return merge([smoothed(skin), *flat])


def tube(
    start: ArrayLike,
    end: ArrayLike,
    radius: float,
    material: Material,
    end_radius: float | None = None,
    sides: int = 6,
    ends: bool = True,
) -> Mesh:
    """A round bar or cone between two points."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, (0.0, 0.0, 1.0) if abs(axis[2]) < 0.9 else (1.0, 0.0, 0.0))
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angle = np.arange(sides) * 2 * np.pi / sides
    circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
    last = radius if end_radius is None else end_radius
    rings = np.stack([start + radius * circle, end + last * circle])
    return loft(rings, np.full((1, sides), material, np.uint8), ends)


def ellipsoid(
    centre: ArrayLike, radii: ArrayLike, material: Material, rows: int = 5, columns: int = 8
) -> Mesh:
    """A ball stretched along x, y and z."""
    polar = np.linspace(0, np.pi, rows + 1)[:, None]
    angle = np.arange(columns) * 2 * np.pi / columns
    unit = np.stack(
        [np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), -np.cos(polar) + 0 * angle],
        axis=-1,
    )
    rings = np.asarray(centre, float) + np.asarray(radii, float) * unit
    return loft(rings, np.full((rows, columns), material, np.uint8), ends=False)


def disc(
    centre: ArrayLike, radius: float, side: float, material: Material, corners: int = 12
) -> Mesh:
    """An upright disc across y; side is the sign of y that it faces."""
    angle = np.arange(corners + 1) * 2 * np.pi / corners
    circle = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1)
    middle = np.asarray(centre, float)
    out = middle + radius * circle
    triangles = np.stack([np.broadcast_to(middle, out[1:].shape), out[1:], out[:-1]], axis=1)
    return faceted(triangles if side > 0 else triangles[:, ::-1], material)
