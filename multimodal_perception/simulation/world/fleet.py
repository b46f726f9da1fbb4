"""Vehicles of the profile realistic: pickups, box lorries, semi-trailers, trailers, motorcycles, SUVs.

A kind is a type of vehicle; several kinds have the same class. As in nuScenes and PandaSet, pickups,
box lorries and tractor units are trucks, and everything that is towed is a trailer, labelled apart from
its towing vehicle. Minibuses for passengers are buses; panel vans are vans. A vehicle with a trailer is
a combination (COMBINATIONS) of several labelled objects.

Sizes: manufacturers' data sheets of pickups (Ford F-150, Toyota Hilux), SUVs, box lorries of 3.5 to 16 t
and sprinter vans; semi-trailers within Directive 96/53/EC; PandaSet's labels of pickups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    cuboid,
    merge,
    tube,
)
from multimodal_perception.simulation.world.motorcycles import motorcyclist_mesh
from multimodal_perception.simulation.world.trailers import (
    caravan_mesh,
    semitrailer_mesh,
    sign_trailer_mesh,
    small_trailer_mesh,
)
from multimodal_perception.simulation.world.vehicles import (
    BUS,
    CAB,
    ESTATE,
    HATCH,
    SEDAN,
    VAN,
    VehicleShape,
    body_skin,
    lamps_and_plates,
    lorry_parts,
    vertical_panel,
    wheel_pair,
)

# Class of each kind.
KIND_CLASSES = {
    "saloon": "car",
    "suv": "car",
    "pickup": "truck",
    "box_lorry": "truck",
    "tractor": "truck",
    "large_van": "van",
    "minibus": "bus",
    "coach": "bus",
    "semitrailer": "trailer",
    "small_trailer": "trailer",
    "caravan": "trailer",
    "sign_trailer": "trailer",
    "motorcyclist": "motorcyclist",
    "jersey_barrier": "barrier",
    "fence_barrier": "barrier",
}
# Vehicles that are towed: the towing kind, the towed kind and their overlap in metres (negative: the
# length of the drawbar between both).
COMBINATIONS = {
    "semi": ("tractor", "semitrailer", 1.9),
    "pickup_trailer": ("pickup", "small_trailer", -0.5),
    "car_caravan": ("suv", "caravan", -0.6),
    "car_trailer": ("saloon", "small_trailer", -0.5),
    "van_trailer": ("large_van", "small_trailer", -0.5),
}
SIZE_STEPS = 12  # sizes of each shape
VARIANTS = (
    96  # of each kind; a multiple of the numbers of shapes and sizes, so that meshes are reused
)
SIZE_RANGE = 0.06  # each side of a vehicle differs by up to this fraction from that of its shape

PICKUP = (
    (-0.500, 0.48, 0.49, 0.95),
    (-0.490, 0.56, 0.57, 0.98),
    (-0.130, 0.57, 0.58, 1.00),
    (-0.115, 0.57, 0.95, 1.00),
    (-0.040, 0.57, 1.00, 1.00),
    (0.090, 0.56, 0.98, 1.00),
    (0.185, 0.56, 0.595, 1.00),
    (0.440, 0.53, 0.56, 0.98),
    (0.492, 0.48, 0.50, 0.93),
    (0.500, 0.38, 0.40, 0.88),
)
# A pickup with two rows of seats and a shorter bed.
CREW_CAB = (
    (-0.500, 0.48, 0.49, 0.95),
    (-0.490, 0.56, 0.57, 0.98),
    (-0.210, 0.57, 0.58, 1.00),
    (-0.195, 0.57, 0.95, 1.00),
    (-0.120, 0.57, 1.00, 1.00),
    (0.060, 0.56, 0.99, 1.00),
    (0.165, 0.56, 0.595, 1.00),
    (0.440, 0.53, 0.56, 0.98),
    (0.492, 0.48, 0.50, 0.93),
    (0.500, 0.38, 0.40, 0.88),
)
SHAPES: dict[str, tuple[VehicleShape, ...]] = {
    "saloon": (
        VehicleShape("car", (4.70, 1.85, 1.45), SEDAN),
        VehicleShape("car", (4.95, 1.88, 1.47), SEDAN, wheel=0.34),
        VehicleShape("car", (4.30, 1.80, 1.48), HATCH),
        VehicleShape("car", (3.80, 1.70, 1.50), HATCH, wheel=0.29),
        VehicleShape("car", (4.70, 1.85, 1.50), ESTATE, pillars=(-0.06, -0.28)),
        VehicleShape("car", (4.40, 1.82, 1.32), SEDAN, wheel=0.34),
    ),
    "suv": (
        VehicleShape("car", (4.45, 1.88, 1.66), HATCH, wheel=0.36),
        VehicleShape("car", (4.75, 1.95, 1.76), ESTATE, pillars=(-0.06, -0.28), wheel=0.38),
        VehicleShape("car", (5.05, 2.00, 1.80), ESTATE, pillars=(-0.06, -0.26), wheel=0.39),
        VehicleShape("car", (5.25, 2.04, 1.88), ESTATE, pillars=(-0.04, -0.24), wheel=0.40),
        # A people carrier.
        VehicleShape("car", (5.10, 1.98, 1.76), VAN, pillars=(0.10, -0.08, -0.26), wheel=0.34),
    ),
    "pickup": (
        VehicleShape("pickup", (5.75, 2.05, 1.92), PICKUP, pillars=(0.0,), wheel=0.40),
        VehicleShape("pickup", (5.35, 1.88, 1.82), CREW_CAB, pillars=(-0.02,), wheel=0.38),
        VehicleShape("pickup", (5.90, 2.05, 1.96), CREW_CAB, pillars=(-0.02,), wheel=0.41),
        VehicleShape("pickup", (6.20, 2.10, 2.02), CREW_CAB, pillars=(-0.02,), wheel=0.42),
        VehicleShape("pickup", (5.30, 1.80, 1.75), PICKUP, pillars=(0.0,), wheel=0.36),
    ),
    "box_lorry": (
        VehicleShape("truck", (5.6, 2.10, 2.80), CAB, pillars=(), wheel=0.36, axles=(-0.27, 0.33)),
        VehicleShape("truck", (6.3, 2.25, 3.05), CAB, pillars=(), wheel=0.40, axles=(-0.27, 0.34)),
        VehicleShape("truck", (7.4, 2.45, 3.30), CAB, pillars=(), wheel=0.45, axles=(-0.28, 0.35)),
        VehicleShape("truck", (8.8, 2.50, 3.60), CAB, pillars=(), wheel=0.48, axles=(-0.27, 0.36)),
    ),
    "large_van": (
        VehicleShape("van", (5.35, 2.00, 2.05), VAN, pillars=(0.12,)),
        VehicleShape("van", (5.60, 2.05, 2.40), VAN, pillars=(0.14,), wheel=0.35),
        VehicleShape("van", (6.00, 2.05, 2.70), VAN, pillars=(0.15,), wheel=0.36),
        VehicleShape("van", (6.95, 2.08, 2.80), VAN, pillars=(0.19,), wheel=0.36),
        VehicleShape("van", (4.40, 1.82, 1.83), VAN, pillars=(0.10,)),
    ),
    "minibus": (
        VehicleShape("bus", (6.9, 2.10, 2.75), BUS, pillars=(-0.28, -0.08, 0.12, 0.3), wheel=0.38),
        VehicleShape("bus", (7.6, 2.30, 2.85), BUS, pillars=(-0.3, -0.1, 0.1, 0.3), wheel=0.40),
    ),
    "coach": (
        VehicleShape(
            "bus",
            (12.2, 2.55, 3.55),
            BUS,
            pillars=(-0.36, -0.22, -0.08, 0.06, 0.20, 0.34),
            wheel=0.50,
            axles=(-0.25, 0.29),
        ),
        VehicleShape(
            "bus",
            (11.0, 2.55, 3.15),
            BUS,
            pillars=(-0.36, -0.2, -0.04, 0.12, 0.28, 0.4),
            wheel=0.48,
            axles=(-0.24, 0.27),
        ),
    ),
}


def kind_parts(kind: str, variant: int) -> list[tuple[str, int, float]]:
    """The labelled objects of a kind or combination: kind, variant and x of the centre in metres.

    x is 0 for a single object and for the towing vehicle of a combination; a towed one is behind it.
    """
    if kind not in COMBINATIONS:
        return [(kind, variant, 0.0)]
    front, rear, overlap = COMBINATIONS[kind]
    half = [float(fleet_mesh(k, variant).bounds()[1][0]) for k in (front, rear)]
    return [(front, variant, 0.0), (rear, variant, -(half[0] + half[1] - overlap))]


def fleet_mesh(kind: str, variant: int) -> Mesh:
    """The mesh of one vehicle of a kind, centred on x = y = 0, standing on z = 0.

    variant: selects shape and size, modulo VARIANTS.
    """
    return _build_mesh(kind, variant % VARIANTS)


@lru_cache(maxsize=len(KIND_CLASSES) * VARIANTS)
def _build_mesh(kind: str, variant: int) -> Mesh:
    """The mesh of a variant below VARIANTS; see fleet_mesh."""
    builders: dict[str, Callable[[int], Mesh]] = {
        "pickup": _pickup,
        "tractor": _tractor,
        "semitrailer": semitrailer_mesh,
        "small_trailer": small_trailer_mesh,
        "caravan": caravan_mesh,
        "sign_trailer": sign_trailer_mesh,
        "motorcyclist": motorcyclist_mesh,
        "jersey_barrier": _jersey_barrier,
        "fence_barrier": _fence_barrier,
    }
    if kind in builders:
        return builders[kind](variant)
    shape = _sized(SHAPES[kind][variant % len(SHAPES[kind])], variant)
    parts = (
        lorry_parts(shape) if kind == "box_lorry" else [body_skin(shape), *lamps_and_plates(shape)]
    )
    parts += [w for axle in shape.axles for w in wheel_pair(shape, axle * shape.size[0])]
    return merge(parts).scaled_to(*shape.size)


def _sized(shape: VehicleShape, variant: int) -> VehicleShape:
    """The shape with one of SIZE_STEPS sizes."""
    rng = np.random.default_rng((83, variant // 8 % SIZE_STEPS))
    factors = 1.0 + SIZE_RANGE * rng.uniform(-1.0, 1.0, 3)
    length, width, height = (float(v) for v in factors * shape.size)
    return replace(shape, size=(length, width, height))


def _pickup(variant: int) -> Mesh:
    """A pickup: bed open, covered, with a canopy, or with tools and ladders."""
    shape = _sized(SHAPES["pickup"][variant % len(SHAPES["pickup"])], variant)
    length, width, height = shape.size
    cab_rear = next(x for x, belt, roof, _ in shape.stations if roof - belt > 0.2) * length
    bed = variant // 5 % 4
    low = [list(s) for s in shape.stations]
    if bed in (0, 3):  # an open bed: the loft ends at the floor of the bed
        for station in low:
            if station[0] * length < cab_rear - 0.02:
                station[1], station[2] = 0.40, 0.42
    skin = replace(shape, stations=tuple((a, b, c, d) for a, b, c, d in low))
    parts = [body_skin(skin), *lamps_and_plates(shape)]
    rim, half = 0.58 * height, width / 2
    x0, x1 = -length / 2 + 0.02, cab_rear - 0.05
    if bed in (0, 3):
        for s in (-1, 1):
            y0, y1 = sorted((s * half, s * (half - 0.12)))
            parts.append(cuboid((x0, y0, 0.34 * height), (x1, y1, rim), Material.PAINT))
        parts.append(cuboid((x0, -half, 0.34 * height), (x0 + 0.08, half, rim), Material.PAINT))
    if bed == 2:
        parts.append(
            cuboid((x0, -0.94 * half, rim - 0.02), (x1, 0.94 * half, 0.97 * height), Material.PAINT)
        )
        parts.append(
            vertical_panel(
                x0 - 0.003, -0.7 * half, 0.7 * half, rim + 0.1, 0.9 * height, Material.GLASS
            )
        )
    if bed == 3:
        rng = np.random.default_rng((84, variant % 60))
        top = float(rng.uniform(0.75, 1.05)) * height
        parts.append(
            cuboid(
                (x0 + 0.3, -0.7 * half, 0.4 * height), (x1 - 0.1, 0.7 * half, top), Material.WOOD
            )
        )
        for y in (-0.8 * half, 0.8 * half):
            parts.append(tube((x0, y, top), (0.2 * length, y, top + 0.05), 0.03, Material.STEEL))
    parts += [w for axle in shape.axles for w in wheel_pair(shape, axle * length)]
    return merge(parts).scaled_to(length, width, height)


def _tractor(variant: int) -> Mesh:
    """A tractor unit: a cab over a frame with two rear axles."""
    rng = np.random.default_rng((85, variant % 24))
    length, width, height = rng.uniform(5.6, 6.8), 2.5, rng.uniform(3.1, 3.95)
    cab = float(rng.uniform(2.0, 2.4))
    shape = VehicleShape("truck", (cab, width, height - 0.1), CAB, ())
    skin = body_skin(shape, offset=(length - cab) / 2)
    frame = cuboid((-length / 2, -0.45, 0.55), (length / 2 - cab, 0.45, 1.05), Material.TRIM)
    front = length / 2 - cab - 0.1
    tanks = [
        cuboid((front - 1.2, s * 1.15 - 0.25, 0.5), (front, s * 1.15 + 0.1, 1.0), Material.STEEL)
        for s in (-1, 1)
    ]
    whole = VehicleShape("truck", (length, width, 2.2), CAB, wheel=0.5)
    parts = [skin, frame, *tanks, *lamps_and_plates(whole)]
    for x in (-0.38 * length, -0.18 * length, 0.5 * length - 1.35):
        parts += wheel_pair(whole, x)
    return merge(parts).scaled_to(length, width, height)


def _jersey_barrier(variant: int) -> Mesh:
    """A concrete or plastic barrier element, 1 to 3 m along x and 0.8 to 1.1 m high."""
    rng = np.random.default_rng((91, variant % 12))
    length, height = rng.uniform(1.0, 3.0), rng.uniform(0.8, 1.1)
    material = (Material.CONCRETE, Material.CONE, Material.REFLECTOR)[int(rng.integers(3))]
    parts = [
        cuboid((-length / 2, -0.30, 0), (length / 2, 0.30, 0.12), material),
        cuboid((-length / 2, -0.20, 0.12), (length / 2, 0.20, 0.35), material),
        cuboid((-length / 2, -0.11, 0.35), (length / 2, 0.11, height), material),
    ]
    return merge(parts)


def _fence_barrier(variant: int) -> Mesh:
    """A barrier board or fence of road works, 1.2 to 2.5 m along x, on feet."""
    rng = np.random.default_rng((92, variant % 12))
    half, height = rng.uniform(0.6, 1.25), rng.uniform(0.9, 1.2)
    parts = []
    for k, z in enumerate(np.linspace(0.35, height, int(rng.integers(2, 4)))):
        material = Material.REFLECTOR if k % 2 else Material.CONE
        parts.append(cuboid((-half, -0.03, z - 0.16), (half, 0.03, z), material))
    for x in (-half, half):
        parts.append(tube((x, 0, 0), (x, 0, height), 0.03, Material.STEEL))
        parts.append(cuboid((x - 0.12, -0.3, 0), (x + 0.12, 0.3, 0.08), Material.TRIM))
    return merge(parts)
