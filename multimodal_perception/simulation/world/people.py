"""Meshes of pedestrians and cyclists at discrete phases of the gait or pedal cycle.

Body heights lie around the adult means of NCD-RisC (2020); limbs have the segment lengths of Winter,
Biomechanics and Motor Control of Human Movement, fig. 4.1. Meshes face along x and stand on z = 0.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, ellipsoid, merge, tube, vec3

HEIGHTS = (1.76, 1.64, 1.84, 1.70, 1.20)

OUTFITS = ("tight", "wide", "skirt", "coat", "rucksack", "bag")
BODY_BUILDS = (1.0, 1.15, 1.3)
PEDESTRIAN_VARIANTS = len(HEIGHTS) * len(OUTFITS) * len(BODY_BUILDS)
GAIT_PHASES = 8  # discrete phases of a gait cycle
GAIT_CYCLE_LENGTH = 1.4  # distance walked in one gait cycle (two steps), metres


@lru_cache(maxsize=2 * PEDESTRIAN_VARIANTS * GAIT_PHASES)
def pedestrian_mesh(variant: int, phase: int, walking: bool = True) -> Mesh:
    """A pedestrian, standing or in one phase of walking.

    variant: 0 to PEDESTRIAN_VARIANTS - 1, combination of height, outfit and build. phase: 0 to
    GAIT_PHASES - 1. walking: whether the legs swing.
    """
    h = HEIGHTS[variant % len(HEIGHTS)]
    outfit = OUTFITS[variant // len(HEIGHTS) % len(OUTFITS)]
    girth = BODY_BUILDS[variant // (len(HEIGHTS) * len(OUTFITS)) % len(BODY_BUILDS)]
    leg = h * girth * (1.0 if outfit == "tight" else 1.35)
    arm = h * girth * (1.0 if outfit == "tight" else 1.25)
    swing = np.sin(2 * np.pi * phase / GAIT_PHASES) if walking else 0.05
    hip, shoulder = 0.53 * h, 0.81 * h
    parts = []
    for s in (-1, 1):
        leg_swing = s * swing
        top = np.array([0.0, s * 0.055 * h, hip])
        knee = top + vec3(0.12 * h * leg_swing, 0, -0.245 * h)
        foot = knee + vec3(0.10 * h * leg_swing - 0.05 * h * max(-leg_swing, 0), 0, -0.235 * h)
        foot[2] = max(foot[2], 0.05)
        parts.append(tube(top, knee, 0.050 * leg, Material.TROUSERS, 0.036 * leg, capped=False))
        parts.append(tube(knee, foot, 0.036 * leg, Material.TROUSERS, 0.026 * leg, capped=False))
        parts.append(
            ellipsoid(foot + vec3(0.05, 0, -0.01), (0.13, 0.045, 0.045), Material.SHOE, 3, 6)
        )
        top = np.array([0.0, s * 0.125 * h, shoulder - 0.01 * h])
        elbow = top + vec3(-0.09 * h * leg_swing, s * 0.02 * h, -0.17 * h)
        hand = elbow + vec3(0.03 * h - 0.08 * h * leg_swing, 0, -0.14 * h)
        parts.append(tube(top, elbow, 0.032 * arm, Material.CLOTH, 0.027 * arm, capped=False))
        parts.append(tube(elbow, hand, 0.026 * arm, Material.CLOTH, 0.020 * arm, capped=False))
        parts.append(ellipsoid(hand, (0.04, 0.03, 0.05), Material.SKIN, 3, 6))
        if outfit == "bag" and s > 0:
            parts.append(
                ellipsoid(hand - vec3(0, 0, 0.2), (0.20, 0.06, 0.17), Material.CLOTH, 4, 6)
            )
    parts += _torso_and_head((0.0, 0.0, hip), (0.0, 0.0, shoulder), h, girth)
    parts += _clothing(outfit, h, girth, abs(swing))
    return merge(parts)


def _clothing(outfit: str, h: float, girth: float, stride: float) -> list[Mesh]:
    """Skirt, coat or rucksack; skirts and coats widen with the stride (0 to 1)."""
    if outfit == "skirt":
        hem = h * girth * (0.11 + 0.05 * stride)
        waist = 0.085 * h * girth
        return [tube((0, 0, 0.60 * h), (0, 0, 0.27 * h), waist, Material.CLOTH, hem, 8, False)]
    if outfit == "coat":
        hem, chest = h * girth * (0.12 + 0.04 * stride), 0.115 * h * girth
        return [tube((0, 0, 0.78 * h), (0, 0, 0.35 * h), chest, Material.CLOTH, hem, 8, False)]
    if outfit == "rucksack":
        radii = (0.07 * h, 0.10 * h, 0.14 * h)
        return [ellipsoid((-0.13 * h * girth, 0, 0.68 * h), radii, Material.CLOTH, 4, 8)]
    return []


def _torso_and_head(
    hip: tuple[float, float, float],
    neck: tuple[float, float, float],
    h: float,
    girth: float,
) -> list[Mesh]:
    """Torso between the hip and the neck, and the head of a person of height h metres."""
    torso_scale = h * girth
    low, high = np.array(hip), np.array(neck)
    up = (high - low) / np.linalg.norm(high - low)
    centre = low + 0.55 * (high - low)
    torso_length = float(np.linalg.norm(high - low))
    head = high + up * 0.115 * h
    parts = [
        ellipsoid(
            centre,
            (0.075 * torso_scale, 0.125 * torso_scale, 0.60 * torso_length),
            Material.CLOTH,
            5,
            8,
        ),
        ellipsoid(
            high - up * 0.03 * h,
            (0.060 * torso_scale, 0.140 * torso_scale, 0.045 * h),
            Material.CLOTH,
            3,
            8,
        ),
        ellipsoid(
            low, (0.07 * torso_scale, 0.105 * torso_scale, 0.07 * h), Material.TROUSERS, 3, 8
        ),
        tube(high - up * 0.02 * h, head, 0.032 * h, Material.SKIN),
        ellipsoid(head, (0.055 * h, 0.045 * h, 0.070 * h), Material.SKIN, 5, 8),
    ]
    parts.append(
        ellipsoid(
            head + up * 0.022 * h - vec3(0.014 * h, 0, 0),
            (0.055 * h, 0.049 * h, 0.055 * h),
            Material.HAIR,
            4,
            8,
        )
    )
    return parts


# Points of the bicycle frame, metres.
BOTTOM_BRACKET, SADDLE = np.array([-0.08, 0.0, 0.28]), np.array([-0.22, 0.0, 0.92])
HEAD_TUBE, HANDLEBAR = np.array([0.40, 0.0, 0.90]), np.array([0.38, 0.0, 1.05])


@lru_cache(maxsize=1)
def bicycle_mesh() -> Mesh:
    """A bicycle with 28 inch wheels, 1.8 m long, without a rider."""
    parts: list[Mesh] = []
    for x in (-0.52, 0.54):
        parts += _wheel(x, 0.34)
    bottom, seat, head, bar = BOTTOM_BRACKET, SADDLE, HEAD_TUBE, HANDLEBAR
    for a, b in (
        (bottom, seat),
        (bottom, head),
        (seat - vec3(0, 0, 0.12), head - vec3(0, 0, 0.05)),
        (head, (0.54, 0, 0.34)),
        (bottom, (-0.52, 0, 0.34)),
        (seat - vec3(0, 0, 0.15), (-0.52, 0, 0.34)),
        (head, bar),
        (bar - vec3(0, 0.28, 0), bar + vec3(0, 0.28, 0)),
    ):
        parts.append(tube(a, b, 0.020, Material.PAINT, sides=6, capped=False))
    parts.append(ellipsoid(seat + vec3(0, 0, 0.02), (0.13, 0.07, 0.03), Material.TRIM, 3, 8))
    parts.append(ellipsoid((-0.87, 0, 0.62), (0.02, 0.04, 0.04), Material.TAIL_LAMP, 3, 6))
    return merge(parts)


@lru_cache(maxsize=64)
def cyclist_mesh(variant: int, phase: int) -> Mesh:
    """A bicycle with its rider, with the pedals in one of GAIT_PHASES positions."""
    h = HEIGHTS[variant % 4]
    parts = [bicycle_mesh()]
    bottom, seat, bar = BOTTOM_BRACKET, SADDLE, HANDLEBAR
    hip, shoulder = seat + vec3(0.0, 0, 0.08), np.array([0.10, 0.0, 0.92 + 0.30 * h])
    crank_angle = 2 * np.pi * phase / GAIT_PHASES
    for s in (-1, 1):
        pedal = bottom + vec3(
            0.17 * np.cos(crank_angle) * s, s * 0.12, 0.17 * np.sin(crank_angle) * s
        )
        top = hip + vec3(0, s * 0.09, 0)
        knee = (top + pedal) / 2 + vec3(0.24, 0, 0.10)
        parts.append(tube(top, knee, 0.075, Material.TROUSERS, 0.055, capped=False))
        parts.append(
            tube(knee, pedal + vec3(0, 0, 0.08), 0.055, Material.TROUSERS, 0.04, capped=False)
        )
        parts.append(
            ellipsoid(pedal + vec3(0.05, 0, 0.05), (0.13, 0.045, 0.05), Material.SHOE, 3, 6)
        )
        top = shoulder + vec3(0, s * 0.19, -0.03)
        hand = bar + vec3(0.02, s * 0.26, 0.02)
        elbow = (top + hand) / 2 + vec3(-0.05, s * 0.05, -0.06)
        parts.append(tube(top, elbow, 0.052, Material.CLOTH, 0.045, capped=False))
        parts.append(tube(elbow, hand, 0.045, Material.SKIN, 0.035, capped=False))
    parts += _cyclist_torso(hip, shoulder)
    return merge(parts)


def _cyclist_torso(hip: np.ndarray, shoulder: np.ndarray) -> list[Mesh]:
    """Torso, head and helmet of a cyclist who leans forward."""
    neck = shoulder + vec3(0.05, 0, 0.06)
    head = neck + vec3(0.06, 0, 0.13)
    return [
        tube(hip, shoulder, 0.13, Material.CLOTH, 0.16, 10),
        ellipsoid(shoulder, (0.10, 0.21, 0.09), Material.CLOTH, 3, 8),
        ellipsoid(hip, (0.14, 0.16, 0.11), Material.TROUSERS, 3, 8),
        tube(shoulder, head, 0.06, Material.SKIN),
        ellipsoid(head, (0.10, 0.08, 0.12), Material.SKIN, 5, 8),
        ellipsoid(head + vec3(-0.02, 0, 0.05), (0.13, 0.10, 0.09), Material.PAINT, 5, 10),
    ]


def _wheel(x: float, radius: float) -> list[Mesh]:
    """A bicycle wheel: 14 short bars as the tyre, and 7 spokes."""
    angle = np.arange(15) * 2 * np.pi / 14
    rim = np.stack([x + radius * np.cos(angle), 0 * angle, radius + radius * np.sin(angle)], -1)
    centre = np.array([x, 0.0, radius])
    rim = centre + (rim - centre) * (radius - 0.02) / radius
    parts = [tube(a, b, 0.02, Material.TYRE, sides=4, capped=False) for a, b in pairwise(rim)]
    parts += [tube(centre, p, 0.006, Material.RIM, sides=3, capped=False) for p in rim[:-1:2]]
    return parts
