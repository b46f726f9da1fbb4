"""Meshes of cars, vans, trucks and buses: a body lofted over cross sections, wheels, lamps and plates.

Sizes: cars by segment from ICCT's European market statistics 2022/23, vans and trucks from the
manufacturers' data sheets, buses within Directive 96/53/EC. Meshes point along x and stand on z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    cuboid,
    disc,
    flat_shaded,
    loft,
    merge,
    quad,
    vec3,
)


@dataclass(frozen=True)
class VehicleShape:
    """Size and side profile of one vehicle model.

    size: (length, width, height), metres. stations: cross sections from rear to front, each (x, belt
    line height, roof height, half width); x is a fraction of the length from -0.5 to 0.5, the others
    are fractions of the height and of the half width. pillars: x of the pillars between windows, same
    fraction. wheel: wheel radius, metres. axles: x of the axles, same fraction.
    """

    vehicle_class: str
    size: tuple[float, float, float]
    stations: tuple[tuple[float, float, float, float], ...]
    pillars: tuple[float, ...] = (-0.03,)
    wheel: float = 0.32
    axles: tuple[float, ...] = (-0.30, 0.31)


SEDAN = (
    (-0.500, 0.50, 0.51, 0.86),
    (-0.480, 0.66, 0.67, 0.95),
    (-0.360, 0.67, 0.70, 0.98),
    (-0.200, 0.66, 0.96, 1.00),
    (-0.050, 0.64, 1.00, 1.00),
    (0.080, 0.63, 0.97, 1.00),
    (0.230, 0.62, 0.645, 0.99),
    (0.400, 0.55, 0.58, 0.97),
    (0.480, 0.47, 0.49, 0.90),
    (0.500, 0.38, 0.40, 0.78),
)
HATCH = (
    (-0.500, 0.55, 0.56, 0.88),
    (-0.470, 0.64, 0.68, 0.95),
    (-0.390, 0.65, 0.94, 0.98),
    (-0.200, 0.64, 0.99, 1.00),
    (-0.050, 0.63, 1.00, 1.00),
    (0.080, 0.62, 0.97, 1.00),
    (0.250, 0.61, 0.64, 0.99),
    (0.410, 0.55, 0.58, 0.96),
    (0.485, 0.47, 0.49, 0.90),
    (0.500, 0.38, 0.40, 0.78),
)
ESTATE = (
    (-0.500, 0.50, 0.51, 0.90),
    (-0.485, 0.64, 0.68, 0.95),
    (-0.430, 0.65, 0.95, 0.98),
    (-0.200, 0.64, 1.00, 1.00),
    (0.000, 0.63, 1.00, 1.00),
    (0.090, 0.62, 0.97, 1.00),
    (0.240, 0.61, 0.64, 0.99),
    (0.410, 0.54, 0.57, 0.96),
    (0.485, 0.46, 0.48, 0.90),
    (0.500, 0.36, 0.38, 0.80),
)
VAN = (
    (-0.500, 0.50, 0.95, 0.97),
    (-0.490, 0.52, 0.99, 1.00),
    (-0.100, 0.52, 1.00, 1.00),
    (0.160, 0.52, 1.00, 1.00),
    (0.230, 0.52, 0.96, 1.00),
    (0.370, 0.50, 0.53, 0.98),
    (0.470, 0.40, 0.42, 0.95),
    (0.500, 0.28, 0.30, 0.88),
)
BUS = (
    (-0.500, 0.40, 0.95, 0.97),
    (-0.490, 0.42, 1.00, 1.00),
    (-0.100, 0.42, 1.00, 1.00),
    (0.300, 0.42, 1.00, 1.00),
    (0.470, 0.42, 0.99, 1.00),
    (0.495, 0.40, 0.93, 0.99),
    (0.500, 0.33, 0.36, 0.97),
)
CAB = (
    (-0.500, 0.55, 0.97, 0.97),
    (-0.100, 0.52, 1.00, 1.00),
    (0.200, 0.52, 0.99, 1.00),
    (0.460, 0.50, 0.90, 0.99),
    (0.500, 0.46, 0.50, 0.96),
)
VEHICLE_SHAPES: dict[str, tuple[VehicleShape, ...]] = {
    "car": (
        VehicleShape("car", (3.70, 1.66, 1.49), HATCH, wheel=0.29),
        VehicleShape("car", (4.05, 1.75, 1.46), HATCH),
        VehicleShape("car", (4.32, 1.80, 1.47), HATCH),
        VehicleShape("car", (4.65, 1.83, 1.44), SEDAN),
        VehicleShape("car", (4.90, 1.87, 1.46), SEDAN, wheel=0.34),
        VehicleShape("car", (4.60, 1.82, 1.50), ESTATE, pillars=(-0.06, -0.28)),
        VehicleShape("car", (4.45, 1.86, 1.66), HATCH, wheel=0.36),
        VehicleShape("car", (4.75, 1.92, 1.72), ESTATE, pillars=(-0.06, -0.28), wheel=0.37),
    ),
    "van": (
        VehicleShape("van", (4.50, 1.85, 1.85), VAN, pillars=(0.10, -0.12)),
        VehicleShape("van", (5.30, 1.95, 2.00), VAN, pillars=(0.12,)),
        VehicleShape("van", (5.93, 2.02, 2.65), VAN, pillars=(0.14,), wheel=0.35),
    ),
    "bus": (
        VehicleShape(
            "bus",
            (12.0, 2.55, 3.05),
            BUS,
            pillars=(-0.36, -0.23, -0.10, 0.03, 0.16, 0.29, 0.40),
            wheel=0.48,
            axles=(-0.24, 0.27),
        ),
        VehicleShape("bus", (9.0, 2.45, 2.95), BUS, pillars=(-0.3, -0.12, 0.08, 0.26), wheel=0.45),
    ),
    "truck": (
        VehicleShape("truck", (6.8, 2.30, 3.10), CAB, pillars=(), wheel=0.42, axles=(-0.28, 0.34)),
        VehicleShape(
            "truck", (9.5, 2.55, 3.65), CAB, pillars=(), wheel=0.50, axles=(-0.34, -0.20, 0.36)
        ),
    ),
}


@lru_cache(maxsize=64)
def vehicle_mesh(vehicle_class: str, variant: int) -> Mesh:
    """The mesh of a car, van, truck or bus; `variant` selects the shape modulo their number."""
    shapes = VEHICLE_SHAPES[vehicle_class]
    shape = shapes[variant % len(shapes)]
    length, width, height = shape.size
    parts = (
        lorry_parts(shape)
        if vehicle_class == "truck"
        else [body_skin(shape), *lamps_and_plates(shape)]
    )
    parts += [w for axle in shape.axles for w in wheel_pair(shape, axle * length)]
    return merge(parts).scaled_to(length, width, height)


def body_skin(shape: VehicleShape, length: float | None = None, offset: float = 0.0) -> Mesh:
    """The vehicle body; a panel van has windows only in front of its first pillar."""
    length = shape.size[0] if length is None else length
    _, width, height = shape.size
    stations = _with_pillars(shape)
    sill = 0.16 if height < 2.2 else 0.30
    rings, cells = [], []
    for x, belt, roof, half_width in stations:
        w, belt_z, roof_z = half_width * width / 2, belt * height, roof * height
        greenhouse = min((roof - belt) / 0.3, 1.0)
        tumblehome = 0.20 if height < 1.8 else 0.07
        top = w * (0.97 - tumblehome * greenhouse)
        low = min(sill, belt_z - 0.1)
        left = [
            (0.82 * w, low),
            (0.99 * w, low + 0.05),
            (1.00 * w, 0.45 * belt_z + 0.1),
            (0.965 * w, belt_z),
            (top, max(roof_z - 0.05, belt_z)),
            (0.80 * top, roof_z),
        ]
        ring = left + [(-y, z) for y, z in reversed(left)]
        rings.append([(x * length + offset, y, z) for y, z in ring])
    for (x0, b0, r0, _), (x1, b1, r1, _) in pairwise(stations):
        cells.append(_cell_materials(shape, (x0, b0, r0), (x1, b1, r1)))
    return loft(np.array(rings), np.array(cells, np.uint8))


def _with_pillars(shape: VehicleShape) -> list[tuple[float, float, float, float]]:
    """The stations with additional ones on both edges of each pillar, 0.09 m wide."""
    table = np.array(shape.stations)
    half = 0.045 / shape.size[0]
    xs = sorted({*table[:, 0], *(p + s * half for p in shape.pillars for s in (-1, 1))})
    return [(x, *(float(np.interp(x, table[:, 0], table[:, k])) for k in (1, 2, 3))) for x in xs]


def _cell_materials(
    shape: VehicleShape, rear: tuple[float, float, float], front: tuple[float, float, float]
) -> list[int]:
    """Materials of the 12 cells between two cross sections, starting at the left sill."""
    (x0, b0, r0), (x1, b1, r1) = rear, front
    centre_x = (x0 + x1) / 2
    greenhouse = max(r0 - b0, r1 - b1) > 0.2
    pillar = any(abs(centre_x - p) * shape.size[0] < 0.06 for p in shape.pillars)
    is_panel = shape.vehicle_class == "van" and shape.size[0] > 5 and centre_x < min(shape.pillars)
    side = Material.GLASS if greenhouse and not pillar and not is_panel else Material.PAINT
    if greenhouse and abs(x1 - x0) < 0.012:
        side = Material.PAINT
    slope = abs(r1 - r0) > 0.2
    if slope and not (is_panel and centre_x < 0):
        top = Material.GLASS
    elif centre_x > 0.2 and not greenhouse and shape.vehicle_class in ("car", "van"):
        top = Material.BONNET
    else:
        top = Material.PAINT
    low = Material.TRIM
    left = [low, Material.PAINT, Material.PAINT, side, top]
    return [*left, top, *reversed(left), Material.TRIM]


def lamps_and_plates(shape: VehicleShape) -> list[Mesh]:
    """Headlights, tail lamps, number plates and grille, a few millimetres outside the body."""
    length, width, height = shape.size
    x0, x1, z = -length / 2 - 0.004, length / 2 + 0.004, min(0.43 * height, 0.85)
    parts = []
    for s in (-1, 1):
        inner, outer = s * 0.24 * width, s * 0.40 * width
        parts.append(vertical_panel(x1 - 0.02, inner, outer, z - 0.10, z + 0.03, Material.HEADLAMP))
        inner, outer = s * 0.28 * width, s * 0.43 * width
        parts.append(vertical_panel(x0, inner, outer, z + 0.02, z + 0.20, Material.TAIL_LAMP))
    parts.append(vertical_panel(x1, -0.22 * width, 0.22 * width, z - 0.20, z - 0.06, Material.TRIM))
    parts.append(vertical_panel(x1 + 0.003, -0.26, 0.26, z - 0.33, z - 0.22, Material.PLATE))
    parts.append(vertical_panel(x0 - 0.003, -0.26, 0.26, z - 0.10, z + 0.01, Material.PLATE))
    parts.append(
        vertical_panel(x0 - 0.001, -0.38 * width, 0.38 * width, z - 0.34, z - 0.20, Material.TRIM)
    )
    if shape.vehicle_class == "bus" or (shape.vehicle_class == "van" and shape.size[0] < 5):
        low, high = (0.46, 0.88) if shape.vehicle_class == "bus" else (0.56, 0.90)
        parts.append(
            vertical_panel(
                x0, -0.40 * width, 0.40 * width, low * height, high * height, Material.GLASS
            )
        )
    if shape.vehicle_class == "bus":
        parts.append(
            vertical_panel(
                x1, -0.46 * width, 0.46 * width, 0.40 * height, 0.86 * height, Material.GLASS
            )
        )
    return parts


def vertical_panel(
    x: float, y0: float, y1: float, z0: float, z1: float, material: Material
) -> Mesh:
    """A rectangle across the vehicle at one x."""
    return quad([[x, y0, z0], [x, y1, z0], [x, y1, z1], [x, y0, z1]], material)


def wheel_pair(shape: VehicleShape, x: float) -> list[Mesh]:
    """Both wheels of an axle: a dark disc as wheel arch, tread, tyre and rim."""
    parts = []
    for s in (-1, 1):
        outer = s * (shape.size[1] / 2 + 0.004)
        centre = np.array([x, outer, shape.wheel])
        parts.append(disc(centre - vec3(0, s * 0.003, 0), 1.16 * shape.wheel, s, Material.TRIM))
        parts.append(_tread(centre, shape.wheel, s))
        parts.append(disc(centre, shape.wheel, s, Material.TYRE))
        parts.append(disc(centre + vec3(0, s * 0.002, 0), 0.62 * shape.wheel, s, Material.RIM, 8))
    return parts


def _tread(centre: np.ndarray, radius: float, side: int) -> Mesh:
    """The running surface of a wheel, 0.22 m wide."""
    angle = np.arange(13) * 2 * np.pi / 12
    out = centre + radius * np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1)
    into = out - vec3(0, side * 0.22, 0)
    first = np.stack([out[:-1], into[:-1], into[1:]], axis=1)
    return flat_shaded(
        np.concatenate([first, np.stack([out[:-1], into[1:], out[1:]], 1)]), Material.TYRE
    )


def lorry_parts(shape: VehicleShape) -> list[Mesh]:
    """A truck: cab, box body, frame, rear doors, side guards and lamps."""
    length, width, height = shape.size
    cab = 2.1
    skin = body_skin(
        VehicleShape("truck", (cab, 0.96 * width, 0.84 * height), shape.stations, ()),
        offset=(length - cab) / 2,
    )
    front = length / 2 - cab - 0.12
    z = 0.95
    body = cuboid((-length / 2, -width / 2, z), (front, width / 2, height), Material.SHEET)
    frame = cuboid((-length / 2, -0.4, 0.55), (front + 0.4, 0.4, z), Material.TRIM)
    doors = [
        vertical_panel(
            -length / 2 - 0.004, s * 0.02, s * 0.46 * width, z + 0.1, height - 0.1, Material.STEEL
        )
        for s in (-1, 1)
    ]
    guard = [
        cuboid(
            (-0.20 * length, s * width / 2 - 0.03, 0.45),
            (front, s * width / 2, 0.85),
            Material.TRIM,
        )
        for s in (-1, 1)
    ]
    lamps = [
        m
        for m in lamps_and_plates(VehicleShape("truck", (length, width, 2.2), shape.stations))
        if len(m)
    ]
    return [skin, body, frame, *doors, *guard, *lamps]
