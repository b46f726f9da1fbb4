"""Spinning LiDARs: beam tables, echoes, noise, drop-out and the motion within a turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.frame import LidarSweep
from multimodal_perception.rig import Sensor
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.shading import face_normal
from multimodal_perception.simulation.world.materials import TABLE, Column, Material
from multimodal_perception.simulation.world.scene import Hits, Scene

REFLECTIVITY, TRANSMISSION = int(Column.REFLECTIVITY), int(Column.TRANSMISSION)
RETRO, TEXTURE = int(Column.RETRO), int(Column.TEXTURE)

Beams = Literal["hdl64", "hdl32", "vlp16"]


def beam_table(model: Beams) -> NDArray[np.float64]:
    """Elevation of each ring in degrees, from the top down, as the makers' manuals give them.

    HDL-64E S2 (Velodyne 63-HDL64ES2): 32 beams 1/3 degree apart from +2, 32 beams 1/2 degree apart
    below. HDL-32E (63-9113): 4/3 degree from +10.67 to -30.67. VLP-16 (63-9243): 2 degrees, +-15.
    """
    if model == "hdl64":
        return np.concatenate([2.0 - np.arange(32) / 3.0, -8.83 - np.arange(32) * 0.5])
    if model == "hdl32":
        return np.linspace(32.0, -92.0, 32) / 3.0
    return np.linspace(15.0, -15.0, 16)


@dataclass(frozen=True)
class LidarPhysics:
    """What a rig file may say of a LiDAR under `simulation`.

    columns: firings of each ring a turn. rate_hz: turns. range_noise: standard deviation, metres.
    ring_noise: of each ring's own constant range error. reach: distance at which half of the pulses
    come back from a wall of reflectivity 0.1, metres (HDL-64E manual: 50 m surely). max_range: metres.
    intensity_gain: what the unit makes of reflectivity; 1.8 is that of KITTI's.
    edge_mixing: share of pulses at an edge that give a range between the two surfaces.
    motion_distortion: whether the ego moves within a turn. noise: all that chance does.
    """

    model: Beams = "hdl64"
    columns: int = field(default=1800, metadata={"min": 8, "max": 8000})
    range_noise: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    ring_noise: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    reach: float = field(default=58.0, metadata={"min": 1.0, "max": 500.0, "unit": "m"})
    min_range: float = field(default=0.9, metadata={"min": 0.0, "max": 10.0, "unit": "m"})
    max_range: float = field(default=120.0, metadata={"min": 1.0, "max": 500.0, "unit": "m"})
    intensity_gain: float = field(default=1.8, metadata={"min": 0.01, "max": 100.0})
    edge_mixing: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    dropout: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0})
    motion_distortion: bool = True
    noise: bool = True


@dataclass(frozen=True)
class SweepTruth:
    """Of each point of a sweep. semantics: (N,) uint8. instances: (N,) int32 track ids, 0 for scenery
    and for what the air scattered back.
    """

    semantics: NDArray[np.uint8]
    instances: NDArray[np.int32]


class SimulatedLidar:
    """One LiDAR of a rig."""

    def __init__(self, sensor: Sensor) -> None:
        self.name = sensor.name
        self.frame_id = sensor.frame_id
        self.period = 1.0 / sensor.rate_hz
        self.physics = build(LidarPhysics, sensor.simulation, f"sensor {sensor.name} simulation")
        elevation = np.radians(beam_table(self.physics.model))
        self.rings = len(elevation)
        columns = self.physics.columns
        # It turns clockwise, and the turn ends straight behind.
        azimuth = np.pi - (np.arange(columns) + 0.5) * (2 * np.pi / columns)
        a, e = np.meshgrid(azimuth, elevation)
        self.directions = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
        self.directions = self.directions.reshape(-1, 3)
        # The stamp is the middle of the turn, when it looks ahead.
        self.column_times = ((np.arange(columns) + 0.5) / columns - 0.5) * self.period

    def sweep(
        self,
        scene: Scene,
        base_from_sensor: NDArray[np.float64],
        odom_from_base: Callable[[float], NDArray[np.float64]],
        stamp_ns: int,
        conditions: Conditions,
        rng: np.random.Generator,
        lost: float = 0.0,
    ) -> tuple[LidarSweep, SweepTruth]:
        """One turn about a scene's moment; `lost` is the share of rings that are silent.

        odom_from_base: pose (4, 4) at seconds from the scene's moment.
        """
        p = self.physics
        rays = self._rays(scene, base_from_sensor, odom_from_base)
        hits = scene.cast(rays)
        if conditions.foliage > 0:
            _enter_leaves(scene, rays, hits, conditions.foliage, rng)
        power, intensity = np.empty(len(rays), np.float32), np.empty(len(rays), np.float32)
        soup = scene.soup
        _echo(rays, hits.distance, hits.triangle, soup.corners, soup.materials, soup.object_of,
              scene.objects, TABLE, conditions.extinction, p.reach, power, intensity)  # fmt: skip
        distance = hits.distance.copy()
        scattered = np.zeros(len(rays), np.bool_)
        kept = (distance < p.max_range) & (distance > p.min_range)
        if p.noise:
            kept &= rng.random(len(rays), np.float32) < _chance(power) * (1.0 - p.dropout)
            scattered = self._blur_and_scatter(distance, hits, conditions, kept, rng)
            ring_error = np.random.default_rng([ord(c) for c in self.name])
            own = p.ring_noise * ring_error.standard_normal(self.rings).astype(np.float32)
            distance += np.repeat(own, p.columns)
            distance += p.range_noise * rng.standard_normal(len(rays), np.float32)
            intensity *= 1.0 + 0.06 * rng.standard_normal(len(rays), np.float32)
        if lost > 0:
            silent = np.random.default_rng(len(self.name)).permutation(self.rings)
            kept.reshape(self.rings, -1)[silent[: round(lost * self.rings)]] = False
        points = np.empty((int(kept.sum()), 4), np.float32)
        points[:, :3] = self.directions[kept] * distance[kept, None].astype(np.float64)
        points[:, 3] = np.where(
            scattered[kept], 0.02, np.clip(p.intensity_gain * intensity[kept], 0.0, 1.0)
        )
        times = np.tile(
            self.column_times if p.motion_distortion else 0 * self.column_times, self.rings
        )
        rings = np.repeat(np.arange(self.rings, dtype=np.uint16), p.columns)
        sweep = LidarSweep(
            self.name, stamp_ns, self.frame_id, points, times[kept].astype(np.float32), rings[kept]
        )
        owner = soup.object_of[np.maximum(hits.triangle[kept], 0)]
        air = scattered[kept] | (hits.triangle[kept] < 0)
        semantics = np.where(air, np.uint8(0), scene.semantics[owner])
        return sweep, SweepTruth(semantics, np.where(air, np.int32(0), scene.tracks[owner]))

    def _rays(
        self,
        scene: Scene,
        base_from_sensor: NDArray[np.float64],
        odom_from_base: Callable[[float], NDArray[np.float64]],
    ) -> NDArray[np.float32]:
        """Rays (N, 6), ring by ring, from where the sensor is when it fires each."""
        if not self.physics.motion_distortion:
            pose = scene.sensor_pose(odom_from_base(0.0), base_from_sensor)
            origins = np.broadcast_to(pose[:3, 3], self.directions.shape)
            return np.hstack([origins, self.directions @ pose[:3, :3].T]).astype(np.float32)
        # Between knots 5 ms apart the motion is straight within a tenth of a millimetre.
        count = max(2, int(np.ceil(self.period / 0.005)) + 1)
        knots = np.linspace(-self.period / 2, self.period / 2, count)
        place = np.array([scene.sensor_pose(odom_from_base(t), base_from_sensor) for t in knots])
        columns = [np.interp(self.column_times, knots, place[:, i, j]) for i, j in np.ndindex(3, 4)]
        pose = np.stack(columns, axis=1).reshape(-1, 3, 4)
        rays = np.empty((self.rings * len(pose), 6), np.float32)
        _turn_columns(pose, self.directions, rays)
        return rays

    def _blur_and_scatter(
        self,
        distance: NDArray[np.float32],
        hits: Hits,
        conditions: Conditions,
        kept: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> NDArray[np.bool_]:
        """Ranges between two surfaces at edges, and echoes of fog and rain; returns the latter (N,)."""
        p = self.physics
        grid = hits.distance.reshape(self.rings, -1)
        beside = np.roll(grid, 1, axis=1)
        with np.errstate(invalid="ignore"):
            edge = (np.abs(grid - beside) > 0.3) & (np.abs(grid - beside) < 5.0)
        mixed = edge.ravel() & (rng.random(len(distance), np.float32) < p.edge_mixing)
        share = rng.random(len(distance), np.float32)
        distance[mixed] += share[mixed] * (beside.ravel()[mixed] - distance[mixed])
        air = conditions.extinction - 1.0 / 2500.0
        if air <= 0:
            return np.zeros(len(distance), np.bool_)
        # A soft target's echo peaks where the pulse fully overlaps, and dies with the way there and
        # back (Hahner et al. 2021, eq. 8 and 9, with ranges drawn rather than integrated).
        drawn = 1.5 + rng.exponential(1.0 / (2.0 * air + 0.08), len(distance)).astype(np.float32)
        likely = 1.0 - np.exp(-1.2 * air * np.minimum(hits.distance, 25.0))
        scattered = (rng.random(len(distance), np.float32) < likely) & (drawn < hits.distance)
        scattered &= drawn < 30.0
        distance[scattered] = drawn[scattered]
        kept |= scattered
        return scattered


def _enter_leaves(
    scene: Scene, rays: NDArray[np.float32], hits: Hits, depth: float, rng: np.random.Generator
) -> None:
    """Move hits on leaves to where the pulse comes back: leaves fill their volume evenly, so the way in
    is exponential (Beer and Lambert), and ends at what stands behind or on the far side."""
    triangle = hits.triangle
    leaves = np.flatnonzero(
        (triangle >= 0) & (scene.soup.materials[np.maximum(triangle, 0)] == Material.LEAVES)
    )
    way = rng.exponential(depth, len(leaves)).astype(np.float32)
    within = rays[leaves]  # a copy
    start = hits.distance[leaves] + np.float32(1e-3)
    within[:, :3] += start[:, None] * within[:, 3:]
    behind = scene.cast(within)
    reached = behind.distance < way
    hits.distance[leaves] = start + np.where(reached, behind.distance, way)
    hits.triangle[leaves] = np.where(reached, behind.triangle, triangle[leaves])


@numba.njit(cache=True, nogil=True)
def _turn_columns(pose, directions, rays):  # type: ignore[no-untyped-def]
    """Rays of each ring's columns, each from the pose (columns, 3, 4) of its time."""
    for i in range(len(directions)):
        at = pose[i % len(pose)]
        square = 0.0
        for k in range(3):
            rays[i, k] = at[k, 3]
            turned = 0.0
            for j in range(3):
                turned += at[k, j] * directions[i, j]
            rays[i, 3 + k] = turned
            square += turned * turned
        for k in range(3):
            rays[i, 3 + k] /= np.sqrt(square)


def _chance(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """That an echo is detected: a soft threshold at power 1 (shot noise of the receiver)."""
    return 1.0 / (1.0 + np.maximum(power, 1e-9) ** np.float32(-4.0))


@numba.njit(cache=True, nogil=True)
def _echo(  # type: ignore[no-untyped-def]
    rays, distance, triangle, corners, materials, object_of, objects, table, extinction, reach,
    power, intensity,
):  # fmt: skip
    """Power of each echo, 1 where half are detected, and calibrated intensity, by the LiDAR equation.

    Power falls with the square of the distance and the way through the air and back (Wandinger 2005).
    Rough surfaces fall off less than Lambert's cosine (Oren and Nayar 1994); shiny ones faster.
    """
    flat = np.zeros(3)
    unit = reach * reach / 0.1
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0:
            power[i], intensity[i] = 0.0, 0.0
            continue
        face_normal(corners[j], flat)
        cosine = abs(flat[0] * rays[i, 3] + flat[1] * rays[i, 4] + flat[2] * rays[i, 5])
        row = table[materials[j]]
        reflectivity = row[REFLECTIVITY]
        own = objects[object_of[j]]
        if int(row[TEXTURE]) == 1:  # paint: its colour, less where it is dark
            reflectivity = 0.06 + 0.5 * (own[0] + own[1] + own[2]) / 3.0
        elif int(row[TEXTURE]) == 2:  # cloth: dyes hide less there than in the light
            reflectivity = 0.2 + 0.6 * (own[3] + own[4] + own[5]) / 3.0
        shiny = row[TRANSMISSION]
        rough = 0.35 + 0.65 * cosine if shiny < 0.04 else cosine
        spread = reflectivity * (1.0 - shiny) * rough
        # Retro-reflectors work up to some 60 degrees.
        spread *= 1.0 + row[RETRO] * max(0.0, cosine - 0.4)
        air = np.exp(-2.0 * extinction * distance[i])
        power[i] = np.sqrt(spread * air * unit) / max(distance[i], 0.1)
        intensity[i] = reflectivity * rough * (1.0 + row[RETRO] * max(0.0, cosine - 0.4)) * air
