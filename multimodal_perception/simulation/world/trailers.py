"""Towed vehicles: semi-trailers, car trailers, caravans and the sign trailers of road works."""

from __future__ import annotations

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    centred,
    cuboid,
    merge,
    tube,
)
from multimodal_perception.simulation.world.vehicles import (
    BUS,
    CAB,
    VehicleShape,
    vertical_panel,
    wheel_pair,
)


def semitrailer_mesh(variant: int) -> Mesh:
    """A semi-trailer: box, curtain side, flatbed with a load, or tank."""
    rng = np.random.default_rng((86, variant % 24))
    length, width, height = rng.uniform(11.5, 13.7), 2.55, rng.uniform(3.7, 4.0)
    kind = int(rng.integers(4))
    floor = 1.15
    parts = [cuboid((-length / 2, -0.5, 0.85), (length / 2, 0.5, floor), Material.TRIM)]
    if kind <= 1:
        skin = Material.SHEET if kind == 0 else Material.PAINT
        parts.append(
            cuboid((-length / 2, -width / 2, floor), (length / 2, width / 2, height), skin)
        )
    elif kind == 2:
        parts.append(
            cuboid(
                (-length / 2, -width / 2, floor),
                (length / 2, width / 2, floor + 0.2),
                Material.WOOD,
            )
        )
        start = -length / 2 + 0.3
        while start < length / 2 - 2.0:
            end = start + float(rng.uniform(1.5, 5.0))
            top = float(rng.uniform(1.7, height))
            parts.append(
                cuboid((start, -1.1, floor + 0.2), (min(end, length / 2), 1.1, top), Material.SHEET)
            )
            start = end + float(rng.uniform(0.2, 1.0))
    else:
        axis = floor + 1.05
        parts.append(
            tube((-length / 2, 0, axis), (length / 2, 0, axis), 1.2, Material.STEEL, sides=14)
        )
        height = axis + 1.2
    shape = VehicleShape("truck", (length, width, 2.4), CAB, wheel=0.5)
    for x in (-0.42, -0.33, -0.24):
        parts += wheel_pair(shape, x * length)
    parts += _trailer_rear(length, width, 0.75)
    return merge(parts).scaled_to(length, width, height)


def _trailer_rear(length: float, width: float, z: float) -> list[Mesh]:
    """Tail lamps, plate and bumper of a trailer at height z."""
    x = -length / 2 - 0.004
    parts = [
        vertical_panel(x, s * 0.28 * width, s * 0.44 * width, z, z + 0.14, Material.TAIL_LAMP)
        for s in (-1, 1)
    ]
    parts.append(vertical_panel(x, -0.26, 0.26, z + 0.02, z + 0.13, Material.PLATE))
    parts.append(
        cuboid((x, -0.45 * width, z - 0.2), (x + 0.1, 0.45 * width, z - 0.05), Material.STEEL)
    )
    return parts


def small_trailer_mesh(variant: int) -> Mesh:
    """A car trailer: open box, closed box, or flatbed with a load, and its drawbar."""
    rng = np.random.default_rng((87, variant % 36))
    length, width = rng.uniform(2.2, 4.6), rng.uniform(1.3, 2.0)
    kind = int(rng.integers(3))
    floor = 0.55
    height = float(rng.uniform(1.5, 2.4) if kind == 1 else rng.uniform(0.9, 1.3))
    material = (Material.STEEL, Material.PAINT, Material.WOOD)[kind]
    x0, x1 = -length / 2, length / 2
    parts = [cuboid((x0, -width / 2, floor), (x1, width / 2, floor + 0.08), Material.TRIM)]
    if kind == 1:
        parts.append(cuboid((x0, -width / 2, floor), (x1, width / 2, height), material))
    else:
        for y0, y1 in ((-width / 2, -width / 2 + 0.04), (width / 2 - 0.04, width / 2)):
            parts.append(cuboid((x0, y0, floor), (x1, y1, height), material))
        for a, b in ((x0, x0 + 0.04), (x1 - 0.04, x1)):
            parts.append(cuboid((a, -width / 2, floor), (b, width / 2, height), material))
        if rng.random() < 0.5:
            top = height + float(rng.uniform(-0.1, 0.8))
            parts.append(
                cuboid(
                    (x0 + 0.3, -0.35 * width, floor), (x1 - 0.4, 0.35 * width, top), Material.WOOD
                )
            )
    drawbar = float(rng.uniform(0.9, 1.4))
    parts.append(tube((x1, 0, 0.45), (x1 + drawbar, 0, 0.45), 0.05, Material.STEEL))
    shape = VehicleShape("trailer", (length, width + 0.25, 1.6), CAB, wheel=0.31)
    axles = (-0.1,) if length < 3.5 else (-0.2, 0.0)
    for x in axles:
        parts += wheel_pair(shape, x * length)
    parts += _trailer_rear(length, width, 0.55)
    return centred(merge(parts))


def caravan_mesh(variant: int) -> Mesh:
    """A caravan with windows and a drawbar."""
    rng = np.random.default_rng((88, variant % 18))
    length, width, height = rng.uniform(4.6, 6.6), rng.uniform(2.1, 2.5), rng.uniform(2.45, 2.75)
    shape = VehicleShape("trailer", (length, width, height), BUS, pillars=())
    parts = [
        cuboid((-length / 2, -width / 2, 0.4), (length / 2, width / 2, height), Material.SHEET)
    ]
    for s in (-1, 1):
        for x in (-0.28, 0.1):
            y0, y1 = sorted((s * (width / 2 + 0.004), s * (width / 2 + 0.008)))
            parts.append(
                cuboid((x * length, y0, 1.3), ((x + 0.2) * length, y1, 1.95), Material.GLASS)
            )
    for x in (-length / 2 - 0.004, length / 2 + 0.004):
        parts.append(vertical_panel(x, -0.35 * width, 0.35 * width, 1.35, 2.0, Material.GLASS))
    parts += wheel_pair(shape, 0.0)
    parts += _trailer_rear(length, width, 0.6)
    parts.append(tube((length / 2, 0, 0.45), (length / 2 + 1.1, 0, 0.45), 0.05, Material.STEEL))
    return centred(merge(parts))


def sign_trailer_mesh(variant: int) -> Mesh:
    """A towed message board or arrow sign of road works, as in PandaSet's street scenes."""
    rng = np.random.default_rng((89, variant % 12))
    length, width = rng.uniform(2.2, 3.2), rng.uniform(1.3, 1.9)
    low, high = rng.uniform(1.2, 1.7), rng.uniform(2.3, 3.1)
    shape = VehicleShape("trailer", (length, width, 1.6), CAB, wheel=0.3)
    parts = [
        cuboid((-length / 2, -width / 2, 0.45), (length / 2, width / 2, 0.75), Material.STEEL),
        cuboid((-0.5, -0.35, 0.75), (0.5, 0.35, 1.15), Material.PAINT),
        tube((0, 0, 1.1), (0, 0, low), 0.08, Material.STEEL),
        cuboid((-0.06, -width / 2 - 0.1, low), (0.06, width / 2 + 0.1, high), Material.DARK_PAINT),
        *wheel_pair(shape, 0.0),
        *_trailer_rear(length, width, 0.5),
    ]
    return centred(merge(parts))
