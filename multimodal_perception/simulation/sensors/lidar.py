"""Simulated spinning LiDARs: beam tables, returns, noise, dropout and motion within a rotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.frame import LidarSweep
from multimodal_perception.kernels import njit
from multimodal_perception.rig import Sensor
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.lidar_returns import dust_ranges, realistic_returns
from multimodal_perception.simulation.sensors.shading import face_normal
from multimodal_perception.simulation.world.materials import (
    MATERIAL_TABLE,
    Material,
    MaterialProperty,
    Texture,
)
from multimodal_perception.simulation.world.scene import RayHits, Scene

REFLECTIVITY, TRANSMISSION = int(MaterialProperty.REFLECTIVITY), int(MaterialProperty.TRANSMISSION)
RETROREFLECTION, TEXTURE = int(MaterialProperty.RETROREFLECTION), int(MaterialProperty.TEXTURE)
PAINT, CLOTH = int(Texture.PAINT), int(Texture.CLOTH)

LidarModel = Literal["hdl64", "hdl32", "vlp16", "pandar64", "uniform", "solid_state"]


def beam_table(model: LidarModel) -> NDArray[np.float64]:
    """Elevation of each ring in degrees, from top to bottom, after the manufacturer's manuals.

    HDL-64E S2 (Velodyne 63-HDL64ES2): 32 beams with a spacing of 1/3 degree from +2 degrees, 32 beams
    with a spacing of 1/2 degree below. HDL-32E (63-9113): 4/3 degree from +10.67 to -30.67. VLP-16
    (63-9243): 2 degrees from +15 to -15. Pandar64 (Hesai user manual, channel distribution):
    1/6 degree from +2 to -6, wider steps above up to +15 and below down to -25.
    """
    if model == "hdl64":
        return np.concatenate([2.0 - np.arange(32) / 3.0, -8.83 - np.arange(32) * 0.5])
    if model == "hdl32":
        return np.linspace(32.0, -92.0, 32) / 3.0
    if model == "pandar64":
        # Channels 1 to 5: +15 +11 +8 +5 +3; 6 to 54: +2 to -6 in steps of 1/6; 55 to 64: -7 to -25.
        upper, lower = [15.0, 11.0, 8.0, 5.0, 3.0], [-7, -8, -9, -10, -11, -12, -13, -14, -19, -25]
        return np.concatenate([upper, 2.0 - np.arange(49) / 6.0, lower])
    return np.linspace(15.0, -15.0, 16)


@dataclass(frozen=True)
class LidarSimulationConfig:
    """Parameters of a simulated LiDAR, in the sensor's `simulation` entry of the rig file.

    Attributes:
        model: Beam layout of the LiDAR: hdl64, hdl32, vlp16 and pandar64 have the table of that sensor;
            uniform has `rings` beams at equal steps, and solid_state scans a limited field of view in
            curved, irregular lines. Set it to the model that is closest to your sensor.
        columns: Firings of each ring per rotation. Increase it for a finer horizontal resolution.
        rings: Number of beams of the models uniform and solid_state; the other models have their own
            number. Set it to the number of beams in your sensor's data sheet.
        top_elevation: Elevation of the highest beam of the models uniform and solid_state above the
            horizontal. Set it to the upper end of the vertical field of view of your sensor.
        bottom_elevation: Elevation of the lowest beam of the models uniform and solid_state, negative
            below the horizontal. Set it to the lower end of the vertical field of view of your sensor.
        horizontal_fov: Horizontal field of view of the model solid_state, centred on x; spinning LiDARs
            always cover 360 degrees. Set it to the value in your sensor's data sheet.
        range_noise: Standard deviation of the random range error of each point. Increase it for noisier
            sensors.
        ring_noise: Standard deviation of the constant range error of each ring. Increase it for a
            LiDAR with poor ring calibration.
        detection_range: Distance at which half of the pulses are detected on a wall of reflectivity
            0.1 (the HDL-64E manual specifies 50 m). Increase it for more powerful sensors.
        min_range: Minimum range of the sensor. Increase it if your sensor reports no points close by.
        max_range: Maximum range of the sensor. Set it to the value in your sensor's data sheet.
        intensity_exponent: Exponent of the reflectivity in the reported intensity, in the profile
            realistic. Increase it for sensors that report values close to 0 for most surfaces and
            large ones for retro-reflectors.
        intensity_gain: Ratio of the reported intensity to the reflectivity; 1.8 matches KITTI's LiDAR.
            Change it to match your sensor's intensities.
        mixed_pixel_ratio: Fraction of the pulses at depth edges whose range is between both surfaces.
            Increase it for sensors with a large beam divergence.
        dropout_ratio: Fraction of the pulses that are lost at random. Increase it to test sparse clouds.
        motion_distortion: Whether the ego vehicle moves during a rotation. Disable it for sweeps that
            need no deskewing.
        noise: Whether noise, dropout, mixed pixels and the random detection of weak returns are
            simulated. Disable it for noise-free reference data.
    """

    model: LidarModel = "hdl64"
    columns: int = field(default=1800, metadata={"min": 8, "max": 8000})
    rings: int = field(default=32, metadata={"min": 1, "max": 256})
    top_elevation: float = field(default=10.0, metadata={"min": -90.0, "max": 90.0, "unit": "deg"})
    bottom_elevation: float = field(
        default=-25.0, metadata={"min": -90.0, "max": 90.0, "unit": "deg"}
    )
    horizontal_fov: float = field(default=120.0, metadata={"min": 1.0, "max": 360.0, "unit": "deg"})
    range_noise: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    ring_noise: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    detection_range: float = field(default=58.0, metadata={"min": 1.0, "max": 500.0, "unit": "m"})
    min_range: float = field(default=0.9, metadata={"min": 0.0, "max": 10.0, "unit": "m"})
    max_range: float = field(default=120.0, metadata={"min": 1.0, "max": 500.0, "unit": "m"})
    intensity_gain: float = field(default=1.8, metadata={"min": 0.01, "max": 100.0})
    intensity_exponent: float = field(default=1.0, metadata={"min": 0.2, "max": 4.0})
    mixed_pixel_ratio: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    dropout_ratio: float = field(default=0.02, metadata={"min": 0.0, "max": 1.0})
    motion_distortion: bool = True
    noise: bool = True

    def __post_init__(self) -> None:
        if self.bottom_elevation > self.top_elevation:
            raise ValueError(
                f"bottom_elevation: must not be above top_elevation ({self.top_elevation:g} deg); got "
                f"{self.bottom_elevation:g}"
            )


def beam_angles(
    config: LidarSimulationConfig, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth and elevation (rings, columns) of all firings of a sweep in radians, ring by ring.

    name: the sensor's name, which seeds the irregular pattern of a solid-state LiDAR.
    """
    columns = config.columns
    if config.model == "solid_state":
        return _solid_state_angles(config, name)
    if config.model == "uniform":
        degrees = np.linspace(config.top_elevation, config.bottom_elevation, config.rings)
    else:
        degrees = beam_table(config.model)
    # The LiDAR rotates clockwise; a sweep starts and ends at the rear.
    azimuth = np.pi - (np.arange(columns) + 0.5) * (2 * np.pi / columns)
    a, e = np.meshgrid(azimuth, np.radians(degrees))
    return a, e


def _solid_state_angles(
    config: LidarSimulationConfig, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scan lines of a solid-state LiDAR: denser at the horizon, curved, and slightly irregular.

    A mirror that is tilted about two axes bends the lines at the sides; the steps between the lines
    are unequal. The values follow the scans of a PandarGT.
    """
    rng = np.random.default_rng([ord(letter) for letter in name])
    rows, columns = config.rings, config.columns
    u = np.linspace(-1.0, 1.0, columns) + rng.normal(0.0, 0.15 / columns, columns)
    v = np.linspace(1.0, -1.0, rows) + rng.normal(0.0, 0.25 / rows, rows)
    v = np.sign(v) * np.abs(v) ** 1.25  # denser near the middle
    middle = (config.top_elevation + config.bottom_elevation) / 2
    half = (config.top_elevation - config.bottom_elevation) / 2
    azimuth = -u[None, :] * config.horizontal_fov / 2 * (1.0 - 0.03 * v[:, None] ** 2)
    azimuth = azimuth + rng.normal(0.0, 0.03, azimuth.shape)
    elevation = middle + half * v[:, None] * (1.0 - 0.10 * u[None, :] ** 2)
    return np.radians(azimuth), np.radians(elevation + rng.normal(0.0, 0.015, azimuth.shape))


@dataclass(frozen=True)
class SweepTruth:
    """Ground truth of each point of a sweep.

    semantics: (N,) uint8, index into SEMANTIC_NAMES. instances: (N,) int32 track ids, 0 for scenery.
    Both are 0 for backscatter of fog and rain.
    """

    semantics: NDArray[np.uint8]
    instances: NDArray[np.int32]


class SimulatedLidar:
    """One LiDAR of a rig."""

    def __init__(self, sensor: Sensor, profile: Profile = "basic") -> None:
        self.name = sensor.name
        self.profile = profile
        self.frame_id = sensor.frame_id
        self.period = 1.0 / sensor.rate_hz
        self.config = build(
            LidarSimulationConfig, sensor.simulation, f"sensor {sensor.name} simulation"
        )
        a, e = beam_angles(self.config, sensor.name)
        self.rings, columns = int(a.shape[0]), self.config.columns
        self.directions = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
        self.directions = self.directions.reshape(-1, 3)
        # The stamp is the centre of the rotation, when the LiDAR measures straight ahead.
        self.column_times = ((np.arange(columns) + 0.5) / columns - 0.5) * self.period

    def sweep(
        self,
        scene: Scene,
        base_from_sensor: NDArray[np.float64],
        odom_from_base: Callable[[float], NDArray[np.float64]],
        stamp_ns: int,
        conditions: Conditions,
        rng: np.random.Generator,
        lost_ring_fraction: float = 0.0,
    ) -> tuple[LidarSweep, SweepTruth]:
        """Simulate one rotation centred on the scene's time; returns the sweep and its ground truth.

        odom_from_base: the vehicle's pose (4, 4) at a time in seconds relative to the scene's time.
        lost_ring_fraction: fraction of the rings without returns.
        """
        c = self.config
        rays = self._firing_rays(scene, base_from_sensor, odom_from_base)
        hits = scene.cast_rays(rays)
        if conditions.foliage_penetration > 0:
            _penetrate_foliage(scene, rays, hits, conditions.foliage_penetration, rng)
        triangles = scene.triangles
        if self.profile == "realistic":
            power, intensity = realistic_returns(
                scene, rays, hits, conditions.extinction, c.detection_range, self.rings, rng
            )
        else:
            power, intensity = np.empty(len(rays), np.float32), np.empty(len(rays), np.float32)
            _received_power(
                rays, hits.distance, hits.triangle, triangles.corners, triangles.materials,
                triangles.object_index, scene.objects, MATERIAL_TABLE, conditions.extinction,
                c.detection_range, power, intensity,
            )  # fmt: skip
        if self.profile == "realistic":
            intensity = np.maximum(intensity, 0.0) ** np.float32(c.intensity_exponent)
        distance = hits.distance.copy()
        scattered = np.zeros(len(rays), np.bool_)
        kept = (distance < c.max_range) & (distance > c.min_range)
        if c.noise:
            probability = _detection_probability(power) * (1.0 - c.dropout_ratio)
            kept &= rng.random(len(rays), np.float32) < probability
            scattered = self._add_mixed_pixels_and_backscatter(
                distance, hits, conditions, kept, rng
            )
            if self.profile == "realistic":
                index, dust = dust_ranges(len(distance), rng)
                near = dust < np.minimum(distance[index], c.max_range)
                distance[index[near]] = dust[near]
                kept[index[near]], scattered[index[near]] = dust[near] > c.min_range, True
            self._add_noise(distance, intensity, rng)
        if lost_ring_fraction > 0:
            # Seeded by the sensor's name: the same rings are lost in every sweep.
            order = np.random.default_rng(len(self.name)).permutation(self.rings)
            kept.reshape(self.rings, -1)[order[: round(lost_ring_fraction * self.rings)]] = False
        points = np.empty((int(kept.sum()), 4), np.float32)
        points[:, :3] = self.directions[kept] * distance[kept, None].astype(np.float64)
        points[:, 3] = np.where(
            scattered[kept], 0.02, np.clip(c.intensity_gain * intensity[kept], 0.0, 1.0)
        )
        times = np.tile(
            self.column_times if c.motion_distortion else 0 * self.column_times, self.rings
        )
        rings = np.repeat(np.arange(self.rings, dtype=np.uint16), c.columns)
        sweep = LidarSweep(
            self.name, stamp_ns, self.frame_id, points, times[kept].astype(np.float32), rings[kept]
        )
        object_index = triangles.object_index[np.maximum(hits.triangle[kept], 0)]
        is_airborne = scattered[kept] | (hits.triangle[kept] < 0)
        semantics = np.where(is_airborne, np.uint8(0), scene.semantics[object_index])
        instances = np.where(is_airborne, np.int32(0), scene.tracks[object_index])
        return sweep, SweepTruth(semantics, instances)

    def _add_noise(
        self,
        distance: NDArray[np.float32],
        intensity: NDArray[np.float32],
        rng: np.random.Generator,
    ) -> None:
        """Add range noise, each ring's constant range error and intensity noise in place."""
        c = self.config
        # Seeded by the sensor's name: the error of a ring is the same in every sweep.
        ring_rng = np.random.default_rng([ord(letter) for letter in self.name])
        ring_error = c.ring_noise * ring_rng.standard_normal(self.rings).astype(np.float32)
        distance += np.repeat(ring_error, c.columns)
        distance += c.range_noise * rng.standard_normal(len(distance), np.float32)
        intensity *= 1.0 + 0.06 * rng.standard_normal(len(distance), np.float32)

    def _firing_rays(
        self,
        scene: Scene,
        base_from_sensor: NDArray[np.float64],
        odom_from_base: Callable[[float], NDArray[np.float64]],
    ) -> NDArray[np.float32]:
        """Rays (N, 6) in the scene's frame, ring by ring, each from the sensor's pose at its firing."""
        if not self.config.motion_distortion:
            pose = scene.sensor_pose(odom_from_base(0.0), base_from_sensor)
            origins = np.broadcast_to(pose[:3, 3], self.directions.shape)
            return np.hstack([origins, self.directions @ pose[:3, :3].T]).astype(np.float32)
        # Linear interpolation between poses 5 ms apart is accurate to 0.1 mm.
        count = max(2, int(np.ceil(self.period / 0.005)) + 1)
        times = np.linspace(-self.period / 2, self.period / 2, count)
        poses = np.array([scene.sensor_pose(odom_from_base(t), base_from_sensor) for t in times])
        entries = [np.interp(self.column_times, times, poses[:, i, j]) for i, j in np.ndindex(3, 4)]
        column_poses = np.stack(entries, axis=1).reshape(-1, 3, 4)
        rays = np.empty((self.rings * len(column_poses), 6), np.float32)
        _transform_column_rays(column_poses, self.directions, rays)
        return rays

    def _add_mixed_pixels_and_backscatter(
        self,
        distance: NDArray[np.float32],
        hits: RayHits,
        conditions: Conditions,
        kept: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> NDArray[np.bool_]:
        """Add mixed pixels at depth edges and backscatter of fog and rain.

        distance, kept: (N,) are changed in place. Returns the mask (N,) of the backscatter.
        """
        c = self.config
        grid = hits.distance.reshape(self.rings, -1)
        neighbour = np.roll(grid, 1, axis=1)
        with np.errstate(invalid="ignore"):
            edge = (np.abs(grid - neighbour) > 0.3) & (np.abs(grid - neighbour) < 5.0)
        mixed = edge.ravel() & (rng.random(len(distance), np.float32) < c.mixed_pixel_ratio)
        fraction = rng.random(len(distance), np.float32)
        distance[mixed] += fraction[mixed] * (neighbour.ravel()[mixed] - distance[mixed])
        extinction = conditions.extinction - 1.0 / 2500.0  # of fog and rain
        if extinction <= 0:
            return np.zeros(len(distance), np.bool_)
        # The echo of a soft target has its maximum where the beams fully overlap, and decays with the
        # two-way path (Hahner et al. 2021, eq. 8 and 9; here the ranges are sampled, not integrated).
        mean_range = 1.0 / (2.0 * extinction + 0.08)
        echo_range = 1.5 + rng.exponential(mean_range, len(distance)).astype(np.float32)
        probability = 1.0 - np.exp(-1.2 * extinction * np.minimum(hits.distance, 25.0))
        scattered = rng.random(len(distance), np.float32) < probability
        scattered &= (echo_range < hits.distance) & (echo_range < 30.0)
        distance[scattered] = echo_range[scattered]
        kept |= scattered
        return scattered


def _penetrate_foliage(
    scene: Scene, rays: NDArray[np.float32], hits: RayHits, depth: float, rng: np.random.Generator
) -> None:
    """Move hits on foliage into it, in place.

    Leaves fill their volume evenly, so that the penetration depth has an exponential distribution (Beer
    and Lambert) with the mean `depth` in metres. It ends at the next surface, such as the far side of
    the foliage or an object in it.
    """
    triangle = hits.triangle
    leaves = np.flatnonzero(
        (triangle >= 0) & (scene.triangles.materials[np.maximum(triangle, 0)] == Material.LEAVES)
    )
    path_length = rng.exponential(depth, len(leaves)).astype(np.float32)
    inner_rays = rays[leaves]  # a copy
    start = hits.distance[leaves] + np.float32(1e-3)
    inner_rays[:, :3] += start[:, None] * inner_rays[:, 3:]
    inner_hits = scene.cast_rays(inner_rays)
    is_surface_hit = inner_hits.distance < path_length
    hits.distance[leaves] = start + np.where(is_surface_hit, inner_hits.distance, path_length)
    hits.triangle[leaves] = np.where(is_surface_hit, inner_hits.triangle, triangle[leaves])


@njit(nogil=True)
def _transform_column_rays(pose, directions, rays):  # type: ignore[no-untyped-def]
    """Transform directions (N, 3), ring by ring, by the pose (columns, 3, 4) of their column.

    Writes rays (N, 6) with unit directions.
    """
    for i in range(len(directions)):
        column_pose = pose[i % len(pose)]
        square = 0.0
        for k in range(3):
            rays[i, k] = column_pose[k, 3]
            rotated = 0.0
            for j in range(3):
                rotated += column_pose[k, j] * directions[i, j]
            rays[i, 3 + k] = rotated
            square += rotated * rotated
        for k in range(3):
            rays[i, 3 + k] /= np.sqrt(square)


def _detection_probability(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Detection probability of a return: a soft threshold at power 1 (shot noise of the receiver)."""
    return 1.0 / (1.0 + np.maximum(power, 1e-9) ** np.float32(-4.0))


@njit(nogil=True)
def _received_power(  # type: ignore[no-untyped-def]
    rays, distance, triangle, corners, materials, object_index, objects, table, extinction,
    detection_range, power, intensity,
):  # fmt: skip
    """Power and intensity of each return by the LiDAR equation, written to power and intensity (N,).

    The power is relative to that at which half of the returns are detected. It falls with the square of
    the distance and with the attenuation on the two-way path (Wandinger 2005). On rough surfaces it
    falls less with the angle of incidence than Lambert's cosine (Oren and Nayar 1994), on shiny surfaces
    like the cosine.
    """
    normal = np.zeros(3)
    scale = detection_range * detection_range / 0.1
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0:
            power[i], intensity[i] = 0.0, 0.0
            continue
        face_normal(corners[j], normal)
        cosine = abs(normal[0] * rays[i, 3] + normal[1] * rays[i, 4] + normal[2] * rays[i, 5])
        row = table[materials[j]]
        reflectivity = row[REFLECTIVITY]
        colours = objects[object_index[j]]
        if int(row[TEXTURE]) == PAINT:  # dark paint is darker at 905 nm too
            reflectivity = 0.06 + 0.5 * (colours[0] + colours[1] + colours[2]) / 3.0
        elif int(row[TEXTURE]) == CLOTH:  # dyes absorb less at 905 nm than visible light
            reflectivity = 0.2 + 0.6 * (colours[3] + colours[4] + colours[5]) / 3.0
        transmission = row[TRANSMISSION]
        angular = 0.35 + 0.65 * cosine if transmission < 0.04 else cosine
        backscatter = reflectivity * (1.0 - transmission) * angular
        # Retro-reflectors work up to an angle of incidence of about 60 degrees.
        retro_gain = 1.0 + row[RETROREFLECTION] * max(0.0, cosine - 0.4)
        backscatter *= retro_gain
        attenuation = np.exp(-2.0 * extinction * distance[i])
        power[i] = np.sqrt(backscatter * attenuation * scale) / max(distance[i], 0.1)
        intensity[i] = reflectivity * angular * retro_gain * attenuation
