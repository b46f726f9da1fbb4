"""Motorcycles and scooters with their riders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import (
    Mesh,
    centred,
    cuboid,
    disc,
    ellipsoid,
    merge,
    tube,
    vec3,
)
from multimodal_perception.simulation.world.vehicles import vertical_panel


def motorcyclist_mesh(variant: int) -> Mesh:
    """A motorcycle or scooter with its rider, sometimes with a passenger or a top case."""
    rng = np.random.default_rng((90, variant % 32))
    radius, base = float(rng.uniform(0.24, 0.33)), float(rng.uniform(1.3, 1.55))
    seat = float(rng.uniform(0.72, 0.88))
    lean, girth = float(rng.uniform(-0.05, 0.35)), float(rng.uniform(0.9, 1.15))
    front, rear = vec3(base / 2, 0, radius), vec3(-base / 2, 0, radius)
    parts = [m for c in (front, rear) for m in _thick_wheel(c, radius)]
    bar = vec3(base / 2 - 0.35, 0, seat + 0.28)
    parts += [
        tube(front, bar - vec3(0.02, 0, 0.1), 0.05, Material.STEEL),
        ellipsoid((0.08, 0, seat - 0.05), (0.38, 0.17, 0.16), Material.PAINT, 4, 8),
        ellipsoid((-0.38, 0, seat), (0.36, 0.16, 0.09), Material.TRIM, 4, 8),
        ellipsoid((0.0, 0, 0.42), (0.34, 0.2, 0.2), Material.STEEL, 4, 8),
        tube(rear, vec3(0.1, 0.13, 0.42), 0.05, Material.STEEL),
        tube(bar - vec3(0, 0.36, 0), bar + vec3(0, 0.36, 0), 0.025, Material.TRIM),
        ellipsoid(bar + vec3(0.16, 0, -0.1), (0.08, 0.11, 0.12), Material.HEADLAMP, 3, 6),
        ellipsoid((-0.72, 0, seat - 0.04), (0.04, 0.07, 0.05), Material.TAIL_LAMP, 3, 6),
        vertical_panel(-0.78, -0.1, 0.1, seat - 0.28, seat - 0.12, Material.PLATE),
    ]
    if rng.random() < 0.45:  # a fairing
        parts.append(ellipsoid(bar + vec3(0.12, 0, -0.16), (0.22, 0.24, 0.3), Material.PAINT, 4, 8))
    riders = [0.0] if rng.random() < 0.85 else [0.0, -0.42]
    for k, x in enumerate(riders):
        parts += _rider(x - 0.2, seat, lean if k == 0 else 0.1, girth, bar)
    if len(riders) == 1 and rng.random() < 0.35:
        parts.append(cuboid((-0.95, -0.22, seat + 0.05), (-0.55, 0.22, seat + 0.4), Material.TRIM))
    return centred(merge(parts))


def _rider(x: float, seat: float, lean: float, girth: float, bar: np.ndarray) -> list[Mesh]:
    """A person with a helmet on a motorcycle; x: of the hip."""
    hip = vec3(x, 0, seat + 0.12)
    shoulder = hip + vec3(0.5 * lean + 0.05, 0, 0.5)
    head = shoulder + vec3(0.08 + 0.1 * lean, 0, 0.25)
    parts = [
        tube(hip, shoulder, 0.15 * girth, Material.CLOTH, 0.19 * girth, 10),
        ellipsoid(shoulder, (0.12, 0.23 * girth, 0.10), Material.CLOTH, 3, 8),
        ellipsoid(head, (0.14, 0.125, 0.15), Material.PAINT, 5, 8),
    ]
    for s in (-1, 1):
        knee = hip + vec3(0.42, s * 0.2, -0.08)
        foot = knee + vec3(-0.18, s * 0.02, -0.42)
        parts.append(
            tube(hip + vec3(0, s * 0.1, 0), knee, 0.085, Material.TROUSERS, 0.07, capped=False)
        )
        parts.append(tube(knee, foot, 0.065, Material.TROUSERS, 0.05, capped=False))
        parts.append(
            ellipsoid(foot + vec3(0.06, 0, -0.03), (0.14, 0.05, 0.06), Material.SHOE, 3, 6)
        )
        hand = np.array([bar[0], s * 0.33, bar[2]])
        elbow = (shoulder + hand) / 2 + vec3(-0.04, s * 0.16, -0.08)
        top = shoulder + vec3(0, s * 0.2 * girth, -0.02)
        parts.append(tube(top, elbow, 0.06, Material.CLOTH, 0.05, capped=False))
        parts.append(tube(elbow, hand, 0.05, Material.CLOTH, 0.04, capped=False))
    return parts


def _thick_wheel(centre: np.ndarray, radius: float) -> Sequence[Mesh]:
    """A motorcycle wheel, 0.12 m wide."""
    side = vec3(0, 0.06, 0)
    return [
        tube(centre - side, centre + side, radius, Material.TYRE, sides=12, capped=False),
        disc(centre + side, radius, 1, Material.RIM, 10),
        disc(centre - side, radius, -1, Material.RIM, 10),
    ]
