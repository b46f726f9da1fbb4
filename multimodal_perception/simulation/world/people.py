"""Pedestrians and cyclists, by the phase of their step.

Heights around the adult means of NCD-RisC (2020), limbs by the segment lengths of Winter,
Biomechanics and Motor Control of Human Movement, fig. 4.1. x forward, standing on z = 0.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, at, ellipsoid, merge, tube

HEIGHTS = (1.76, 1.64, 1.84, 1.70, 1.20)
# What is worn and carried, how stout somebody is, and so how many people differ.
WEARS = ("tight", "wide", "skirt", "coat", "rucksack", "bag")
BUILDS = (1.0, 1.15, 1.3)
PEOPLE = len(HEIGHTS) * len(WEARS) * len(BUILDS)
# A step's movement is drawn in so many pictures.
PHASES = 8
STEP_LENGTH = 1.4  # metres that a whole cycle of two steps covers


@lru_cache(maxsize=2 * PEOPLE * PHASES)
def pedestrian(variant: int, phase: int, walks: bool = True) -> Mesh:
    """A person of PEOPLE, walking at one of PHASES moments of the step, or standing."""
    h = HEIGHTS[variant % len(HEIGHTS)]
    wear = WEARS[variant // len(HEIGHTS) % len(WEARS)]
    stout = BUILDS[variant // (len(HEIGHTS) * len(WEARS)) % len(BUILDS)]
    leg = h * stout * (1.0 if wear == "tight" else 1.35)
    arm = h * stout * (1.0 if wear == "tight" else 1.25)
    swing = np.sin(2 * np.pi * phase / PHASES) if walks else 0.05
    hip, shoulder = 0.53 * h, 0.81 * h
    parts = []
    for s in (-1, 1):
        lead = s * swing
        top = np.array([0.0, s * 0.055 * h, hip])
        knee = top + at(0.12 * h * lead, 0, -0.245 * h)
        foot = knee + at(0.10 * h * lead - 0.05 * h * max(-lead, 0), 0, -0.235 * h)
        foot[2] = max(foot[2], 0.05)
        parts.append(tube(top, knee, 0.050 * leg, Material.TROUSERS, 0.036 * leg, ends=False))
        parts.append(tube(knee, foot, 0.036 * leg, Material.TROUSERS, 0.026 * leg, ends=False))
        parts.append(
            ellipsoid(foot + at(0.05, 0, -0.01), (0.13, 0.045, 0.045), Material.SHOE, 3, 6)
        )
        top = np.array([0.0, s * 0.125 * h, shoulder - 0.01 * h])
        elbow = top + at(-0.09 * h * lead, s * 0.02 * h, -0.17 * h)
        hand = elbow + at(0.03 * h - 0.08 * h * lead, 0, -0.14 * h)
        parts.append(tube(top, elbow, 0.032 * arm, Material.CLOTH, 0.027 * arm, ends=False))
        parts.append(tube(elbow, hand, 0.026 * arm, Material.CLOTH, 0.020 * arm, ends=False))
        parts.append(ellipsoid(hand, (0.04, 0.03, 0.05), Material.SKIN, 3, 6))
        if wear == "bag" and s > 0:
            parts.append(ellipsoid(hand - at(0, 0, 0.2), (0.20, 0.06, 0.17), Material.CLOTH, 4, 6))
    parts += _trunk((0.0, 0.0, hip), (0.0, 0.0, shoulder), h, stout)
    parts += _worn(wear, h, stout, abs(swing))
    return merge(parts)


def _worn(wear: str, h: float, stout: float, stride: float) -> list[Mesh]:
    """What hangs about the body: wider the longer the step is."""
    if wear == "skirt":
        hem = h * stout * (0.11 + 0.05 * stride)
        waist = 0.085 * h * stout
        return [tube((0, 0, 0.60 * h), (0, 0, 0.27 * h), waist, Material.CLOTH, hem, 8, False)]
    if wear == "coat":
        hem, chest = h * stout * (0.12 + 0.04 * stride), 0.115 * h * stout
        return [tube((0, 0, 0.78 * h), (0, 0, 0.35 * h), chest, Material.CLOTH, hem, 8, False)]
    if wear == "rucksack":
        radii = (0.07 * h, 0.10 * h, 0.14 * h)
        return [ellipsoid((-0.13 * h * stout, 0, 0.68 * h), radii, Material.CLOTH, 4, 8)]
    return []


def _trunk(
    hip: tuple[float, float, float],
    neck: tuple[float, float, float],
    h: float,
    stout: float,
) -> list[Mesh]:
    """Torso from hip to shoulders, and the head above them; the top is at h above the ground or less."""
    wide = h * stout
    low, high = np.array(hip), np.array(neck)
    up = (high - low) / np.linalg.norm(high - low)
    middle = low + 0.55 * (high - low)
    span = float(np.linalg.norm(high - low))
    head = high + up * 0.115 * h
    parts = [
        ellipsoid(middle, (0.075 * wide, 0.125 * wide, 0.60 * span), Material.CLOTH, 5, 8),
        ellipsoid(
            high - up * 0.03 * h, (0.060 * wide, 0.140 * wide, 0.045 * h), Material.CLOTH, 3, 8
        ),
        ellipsoid(low, (0.07 * wide, 0.105 * wide, 0.07 * h), Material.TROUSERS, 3, 8),
        tube(high - up * 0.02 * h, head, 0.032 * h, Material.SKIN),
        ellipsoid(head, (0.055 * h, 0.045 * h, 0.070 * h), Material.SKIN, 5, 8),
    ]
    parts.append(
        ellipsoid(
            head + up * 0.022 * h - at(0.014 * h, 0, 0),
            (0.055 * h, 0.049 * h, 0.055 * h),
            Material.HAIR,
            4,
            8,
        )
    )
    return parts


BOTTOM, SEAT = np.array([-0.08, 0.0, 0.28]), np.array([-0.22, 0.0, 0.92])
HEAD, BAR = np.array([0.40, 0.0, 0.90]), np.array([0.38, 0.0, 1.05])


@lru_cache(maxsize=1)
def bicycle() -> Mesh:
    """A bicycle of 28 inch wheels, 1.8 m long, without its rider."""
    parts: list[Mesh] = []
    for x in (-0.52, 0.54):
        parts += _wheel(x, 0.34)
    bottom, seat, head, bar = BOTTOM, SEAT, HEAD, BAR
    for a, b in (
        (bottom, seat),
        (bottom, head),
        (seat - at(0, 0, 0.12), head - at(0, 0, 0.05)),
        (head, (0.54, 0, 0.34)),
        (bottom, (-0.52, 0, 0.34)),
        (seat - at(0, 0, 0.15), (-0.52, 0, 0.34)),
        (head, bar),
        (bar - at(0, 0.28, 0), bar + at(0, 0.28, 0)),
    ):
        parts.append(tube(a, b, 0.020, Material.PAINT, sides=6, ends=False))
    parts.append(ellipsoid(seat + at(0, 0, 0.02), (0.13, 0.07, 0.03), Material.TRIM, 3, 8))
    parts.append(ellipsoid((-0.87, 0, 0.62), (0.02, 0.04, 0.04), Material.TAIL_LAMP, 3, 6))
    return merge(parts)


@lru_cache(maxsize=64)
def cyclist(variant: int, phase: int) -> Mesh:
    """A rider on a bicycle of 28 inch wheels (1.8 m long), at one of PHASES of the pedals' turn."""
    h = HEIGHTS[variant % 4]
    parts = [bicycle()]
    bottom, seat, bar = BOTTOM, SEAT, BAR
    hip, shoulder = seat + at(0.0, 0, 0.08), np.array([0.10, 0.0, 0.92 + 0.30 * h])
    turn = 2 * np.pi * phase / PHASES
    for s in (-1, 1):
        pedal = bottom + at(0.17 * np.cos(turn) * s, s * 0.12, 0.17 * np.sin(turn) * s - 0.0)
        top = hip + at(0, s * 0.09, 0)
        knee = (top + pedal) / 2 + at(0.24, 0, 0.10)
        parts.append(tube(top, knee, 0.075, Material.TROUSERS, 0.055, ends=False))
        parts.append(tube(knee, pedal + at(0, 0, 0.08), 0.055, Material.TROUSERS, 0.04, ends=False))
        parts.append(ellipsoid(pedal + at(0.05, 0, 0.05), (0.13, 0.045, 0.05), Material.SHOE, 3, 6))
        top = shoulder + at(0, s * 0.19, -0.03)
        hand = bar + at(0.02, s * 0.26, 0.02)
        elbow = (top + hand) / 2 + at(-0.05, s * 0.05, -0.06)
        parts.append(tube(top, elbow, 0.052, Material.CLOTH, 0.045, ends=False))
        parts.append(tube(elbow, hand, 0.045, Material.SKIN, 0.035, ends=False))
    parts += _leaning(hip, shoulder, h)
    return merge(parts)


def _leaning(hip: np.ndarray, shoulder: np.ndarray, h: float) -> list[Mesh]:
    neck = shoulder + at(0.05, 0, 0.06)
    head = neck + at(0.06, 0, 0.13)
    return [
        tube(hip, shoulder, 0.13, Material.CLOTH, 0.16, 10),
        ellipsoid(shoulder, (0.10, 0.21, 0.09), Material.CLOTH, 3, 8),
        ellipsoid(hip, (0.14, 0.16, 0.11), Material.TROUSERS, 3, 8),
        tube(shoulder, head, 0.06, Material.SKIN),
        ellipsoid(head, (0.10, 0.08, 0.12), Material.SKIN, 5, 8),
        ellipsoid(head + at(-0.02, 0, 0.05), (0.13, 0.10, 0.09), Material.PAINT, 5, 10),
    ]


def _wheel(x: float, radius: float) -> list[Mesh]:
    """A tyre of bars in a circle, and some spokes."""
    angle = np.arange(15) * 2 * np.pi / 14
    rim = np.stack([x + radius * np.cos(angle), 0 * angle, radius + radius * np.sin(angle)], -1)
    middle = np.array([x, 0.0, radius])
    rim = middle + (rim - middle) * (radius - 0.02) / radius
    parts = [tube(a, b, 0.02, Material.TYRE, sides=4, ends=False) for a, b in pairwise(rim)]
    parts += [tube(middle, p, 0.006, Material.RIM, sides=3, ends=False) for p in rim[:-1:2]]
    return parts
