"""Street furniture of about a person's height: bins, posts, shrubs, parked bicycles.

With few LiDAR points these objects resemble pedestrians; camera and thermal images distinguish them.
Sizes: wheeled bins of 240 l (EN 840-1); litter bins, letter boxes and parking meters after
manufacturers' catalogues; street cabinets 0.7 to 1.2 m wide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, cuboid, ellipsoid, merge, quad, tube
from multimodal_perception.simulation.world.people import bicycle_mesh

VARIANTS = 8
Rng = np.random.Generator


def _litter_bin(rng: Rng) -> Mesh:
    """A cylindrical litter bin on a short foot."""
    height, radius = rng.uniform(0.85, 1.15), rng.uniform(0.19, 0.27)
    return merge(
        [
            tube((0, 0, 0.08), (0, 0, height), radius * 0.9, Material.PAINT, radius, 12),
            tube((0, 0, 0), (0, 0, 0.08), 0.12, Material.STEEL),
        ]
    )


def _wheeled_bin(_: Rng) -> Mesh:
    """A wheeled bin of 240 l."""
    wheels = [
        tube((-0.28, s * 0.2, 0.1), (-0.28, s * 0.26, 0.1), 0.1, Material.TYRE, sides=12)
        for s in (-1, 1)
    ]
    return merge(
        [
            cuboid((-0.28, -0.27, 0.12), (0.3, 0.27, 0.98), Material.PAINT),
            cuboid((-0.36, -0.29, 0.98), (0.36, 0.29, 1.07), Material.PAINT),
            *wheels,
        ]
    )


def _meter(rng: Rng) -> Mesh:
    """A parking meter: a box on a post."""
    height, side = rng.uniform(1.3, 1.75), rng.uniform(0.06, 0.14)
    return merge(
        [
            tube((0, 0, 0), (0, 0, height - 0.4), 0.05, Material.STEEL),
            cuboid((-side, -side, height - 0.45), (side, side, height), Material.PAINT),
        ]
    )


def _letter_box(rng: Rng) -> Mesh:
    """A letter box on a short post."""
    height = rng.uniform(1.2, 1.6)
    return merge(
        [
            cuboid((-0.1, -0.1, 0), (0.1, 0.1, 0.5), Material.STEEL),
            cuboid((-0.2, -0.25, 0.45), (0.2, 0.25, height), Material.PAINT),
        ]
    )


def _cabinet(rng: Rng) -> Mesh:
    """A street cabinet."""
    half, height = rng.uniform(0.35, 0.6), rng.uniform(1.1, 1.5)
    material = Material.SHEET if rng.random() < 0.5 else Material.PAINT
    return cuboid((-half, -0.2, 0), (half, 0.2, height), material)


def _planter(rng: Rng) -> Mesh:
    """A plant in a concrete pot."""
    height, pot = rng.uniform(1.2, 1.9), rng.uniform(0.2, 0.3)
    centre_z = 0.5 * (height + 0.35)
    radii = (rng.uniform(0.2, 0.33), rng.uniform(0.2, 0.33), height - centre_z)
    return merge(
        [
            cuboid((-pot, -pot, 0), (pot, pot, 0.5), Material.CONCRETE),
            ellipsoid((0, 0, centre_z), radii, Material.LEAVES, 5, 8),
        ]
    )


def _young_tree(rng: Rng) -> Mesh:
    """A young tree with its supporting stake."""
    height = rng.uniform(1.7, 2.7)
    return merge(
        [
            tube((0, 0, 0), (0, 0, height - 0.5), 0.03, Material.BARK),
            tube((0.25, 0, 0), (0.2, 0, 1.3), 0.03, Material.WOOD),
            ellipsoid((0, 0, height - 0.55), (0.3, 0.3, 0.55), Material.LEAVES, 5, 8),
        ]
    )


def _board(_: Rng) -> Mesh:
    """An A-board."""
    corners = np.array([[0.3, -0.3, 0], [0.3, 0.3, 0], [0.02, 0.3, 1.0], [0.02, -0.3, 1.0]])
    return merge([quad(corners, Material.PAINT), quad(corners * (-1, 1, 1), Material.DARK_PAINT)])


def _parasol(_: Rng) -> Mesh:
    """A closed parasol."""
    return merge(
        [
            tube((0, 0, 0), (0, 0, 2.3), 0.025, Material.WOOD),
            tube((0, 0, 0.9), (0, 0, 2.2), 0.2, Material.CLOTH, 0.05),
            cuboid((-0.25, -0.25, 0), (0.25, 0.25, 0.08), Material.CONCRETE),
        ]
    )


def _boxes(rng: Rng) -> Mesh:
    """Two or three stacked cardboard boxes."""
    return merge(
        [
            cuboid((-0.3, -0.25, 0.5 * k), (0.3, 0.25, 0.5 * k + 0.48), Material.CARDBOARD)
            for k in range(int(rng.integers(2, 4)))
        ]
    )


def _parked_bicycle(_: Rng) -> Mesh:
    """A parked bicycle."""
    return bicycle_mesh()


# For each type: its mesh function, its semantic class and its relative frequency in percent.
FURNITURE_TYPES: dict[str, tuple[Callable[[Rng], Mesh], str, int]] = {
    "litter_bin": (_litter_bin, "furniture", 14),
    "wheeled_bin": (_wheeled_bin, "furniture", 14),
    "meter": (_meter, "pole", 12),
    "letter_box": (_letter_box, "furniture", 8),
    "cabinet": (_cabinet, "furniture", 8),
    "planter": (_planter, "vegetation", 12),
    "young_tree": (_young_tree, "vegetation", 10),
    "board": (_board, "furniture", 6),
    "parasol": (_parasol, "furniture", 6),
    "boxes": (_boxes, "furniture", 4),
    "parked_bicycle": (_parked_bicycle, "furniture", 6),
}


def sample_furniture_type(rng: Rng) -> str:
    """Draw one of FURNITURE_TYPES according to their frequencies."""
    weights = np.array([weight for _, _, weight in FURNITURE_TYPES.values()], float)
    return str(rng.choice(list(FURNITURE_TYPES), p=weights / weights.sum()))


@lru_cache(maxsize=len(FURNITURE_TYPES) * VARIANTS)
def furniture_mesh(furniture_type: str, variant: int) -> Mesh:
    """A piece of street furniture at the origin, standing on z = 0, at most 0.61 m either way in y.

    furniture_type: key of FURNITURE_TYPES. variant: modulo VARIANTS, seeds the random sizes.
    """
    index = list(FURNITURE_TYPES).index(furniture_type)
    rng = np.random.default_rng((80, index, variant % VARIANTS))
    return FURNITURE_TYPES[furniture_type][0](rng)
