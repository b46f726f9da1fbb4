"""Comparison of the simulated LiDAR with real sweeps of a Velodyne HDL-64E from KITTI."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.kitti import LIDAR_HEIGHT, KittiDataset
from multimodal_perception.frame import CLASS_NAMES, SensorFrame
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.simulation import Simulation

# KITTI's LiDAR rotates at 10 Hz in steps of 0.1728 degrees (Geiger et al. 2013, table 1: 0.09 degrees
# of resolution, with two blocks of lasers that fire alternately).
COLUMNS = 2083
ELEVATIONS = np.array([-25.0, -20.0, -15.0, -10.0, -8.0, -6.0, -4.0, -2.0, 0.0, 2.5])
RANGES = np.array([0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 120.0])
CAR_RANGES = ((5.0, 10.0), (10.0, 15.0), (15.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 60.0))
CAR = CLASS_NAMES.index("car")
# Half the horizontal field of view of the sweeps that KITTI cropped to the camera's view.
HALF_FIELD_OF_VIEW = np.radians(40.0)


@dataclass
class SweepStatistics:
    """Statistics over sweeps, within the field of view of the front camera.

    sweeps: number of uncropped sweeps. points: mean number of points. by_elevation, by_range: mean
    histograms. intensity: mean and standard deviation. ground_noise: standard deviation of the height of
    ground points, metres. cars: (N, 3) distance (metres), number of points and silhouette (m2).
    """

    sweeps: int
    points: float
    by_elevation: NDArray[np.float64]
    by_range: NDArray[np.float64]
    intensity: tuple[float, float]
    ground_noise: float
    cars: NDArray[np.float64]


def kitti_rig() -> Rig:
    """A rig with only KITTI's LiDAR, for the simulator."""
    sensor = {
        "modality": "lidar",
        "topic": "/lidar/points",
        "frame_id": "lidar",
        "extrinsics": {"xyz": [0.0, 0.0, LIDAR_HEIGHT]},
        "simulation": {"model": "hdl64", "columns": COLUMNS, "motion_distortion": False},
    }
    return parse_rig({"name": "kitti", "sensors": {"lidar": sensor}}, "KITTI's rig")


def sweep_statistics(
    frames: Iterable[tuple[SensorFrame, NDArray[np.bool_]]],
) -> SweepStatistics:
    """Statistics of frames. Each frame comes with a mask of its unoccluded labels."""
    elevations, ranges, shades, noises, cars, points = [], [], [], [], [], []
    for frame, unoccluded in frames:
        xyz = frame.lidars["lidar"].points
        ahead = np.abs(np.arctan2(xyz[:, 1], xyz[:, 0])) < HALF_FIELD_OF_VIEW
        # Some sweeps of KITTI are cropped to the image and have no ground points near the vehicle.
        uncropped = float(np.mean(ahead)) < 0.9
        xyz = xyz[ahead]
        flat = np.linalg.norm(xyz[:, :2], axis=1)
        far = np.linalg.norm(xyz[:, :3], axis=1)
        if uncropped:
            points.append(len(xyz))
            elevations.append(np.histogram(np.degrees(np.arctan2(xyz[:, 2], flat)), ELEVATIONS)[0])
            ranges.append(np.histogram(far, RANGES)[0])
        shades.append(xyz[:, 3])
        noises += _ground_noise(xyz)
        assert frame.labels is not None
        boxes = frame.labels.boxes[unoccluded & (frame.labels.labels == CAR)]
        in_base = frame.points_in_base()
        # Enlarge the boxes, because points scatter around the faces, but exclude the ground.
        boxes = boxes + np.array([0, 0, 0.08, 0.1, 0.1, -0.12, 0], np.float32)
        distance = np.linalg.norm(boxes[:, :2], axis=1)
        in_view = (np.abs(np.arctan2(boxes[:, 1], boxes[:, 0])) < HALF_FIELD_OF_VIEW - 0.1) & (
            distance > 4
        )
        counts = count_points_in_boxes(in_base, boxes)
        cars.append(np.column_stack([distance, counts, _silhouette(boxes)])[in_view])
    shade = np.concatenate(shades)
    return SweepStatistics(
        len(points),
        float(np.mean(points)),
        np.mean(elevations, axis=0),
        np.mean(ranges, axis=0),
        (float(shade.mean()), float(shade.std())),
        float(np.median(noises)) if noises else float("nan"),
        np.concatenate(cars),
    )


def _silhouette(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Area (N,) of the boxes' silhouettes from the origin, square metres."""
    angle = boxes[:, 6] - np.arctan2(boxes[:, 1], boxes[:, 0])
    width = boxes[:, 3] * np.abs(np.sin(angle)) + boxes[:, 4] * np.abs(np.cos(angle))
    return np.asarray(width * boxes[:, 5], np.float64)


def _ground_noise(points: NDArray[np.float32]) -> list[float]:
    """Standard deviation of the height around a plane, in patches of 1 m of the road ahead."""
    spreads = []
    for x in range(6, 16):
        near = (np.abs(points[:, 0] - x) < 0.5) & (np.abs(points[:, 1]) < 1.0)
        patch = points[near & (points[:, 2] < -LIDAR_HEIGHT + 0.35)].astype(np.float64)
        if len(patch) < 30:
            continue
        design = np.column_stack([patch[:, :2], np.ones(len(patch))])
        plane = np.linalg.lstsq(design, patch[:, 2], rcond=None)[0]
        residual = patch[:, 2] - design @ plane
        spreads.append(float(1.4826 * np.median(np.abs(residual))))
    return spreads


def real_frames(root: Path) -> Iterable[tuple[SensorFrame, NDArray[np.bool_]]]:
    """KITTI's labelled frames, with a mask of the labels that are at most partly occluded.

    Truncated labels are excluded as well.
    """
    dataset = KittiDataset(root)
    for index, stem in enumerate(dataset.stems):
        frame = dataset[index]
        lines = (root / "label_2" / f"{stem}.txt").read_text(encoding="ascii").splitlines()
        words = [line.split() for line in lines if line and not line.startswith("DontCare")]
        yield frame, np.array([float(w[1]) <= 0.1 and int(w[2]) <= 1 for w in words], np.bool_)


def simulated_frames(
    scenario: str, frames: int, seed: int, profile: Profile = "basic"
) -> Iterable[tuple[SensorFrame, NDArray[np.bool_]]]:
    """Frames of a scenario at intervals of 2 s, with a mask of the labels of visibility above 0.7."""
    simulation = Simulation(scenario, kitti_rig(), seed, frames * 20, profile=profile)
    for index in range(0, frames * 20, 20):
        observation = simulation.observe(index)
        yield observation.frame, observation.truth.visibility > 0.7


def compare_with_kitti(
    root: Path, scenario: str = "urban_street", frames: int = 12, profile: Profile = "basic"
) -> dict[str, Any]:
    """The real and the simulated value and their ratio, by statistic and for each real car."""
    real = sweep_statistics(real_frames(root))
    simulated = sweep_statistics(simulated_frames(scenario, frames, 1, profile))
    table: dict[str, Any] = {
        "uncropped sweeps": _row(real.sweeps, simulated.sweeps),
        "points ahead": _row(real.points, simulated.points),
        "intensity mean": _row(real.intensity[0], simulated.intensity[0]),
        "intensity standard deviation": _row(real.intensity[1], simulated.intensity[1]),
        "ground height noise (m)": _row(real.ground_noise, simulated.ground_noise),
    }
    for k in range(len(ELEVATIONS) - 1):
        name = f"points at {ELEVATIONS[k]:g} to {ELEVATIONS[k + 1]:g} deg"
        table[name] = _row(real.by_elevation[k], simulated.by_elevation[k])
    for k in range(len(RANGES) - 1):
        name = f"points at {RANGES[k]:g} to {RANGES[k + 1]:g} m"
        table[name] = _row(real.by_range[k], simulated.by_range[k])
    for low, high in CAR_RANGES:
        pair = [_points_on_cars(s.cars, low, high) for s in (real, simulated)]
        table[f"points on a car at {low:g} to {high:g} m, scaled to the centre"] = _row(*pair)
    for distance, count, area in real.cars[np.argsort(real.cars[:, 0])]:
        near = simulated.cars[np.abs(simulated.cars[:, 0] / distance - 1.0) < 0.12]
        # Scale the number of points to the distance and the silhouette of the real car.
        scaled = near[:, 1] * (near[:, 0] / distance) ** 2 * area / near[:, 2]
        name = f"points on the real car at {distance:.1f} m"
        table[name] = _row(count, float(np.median(scaled)) if len(scaled) else float("nan"))
    return table


def _points_on_cars(cars: NDArray[np.float64], low: float, high: float) -> float:
    """Median number of points on cars in a distance band, scaled to the centre of the band."""
    near = cars[(cars[:, 0] >= low) & (cars[:, 0] < high)]
    if not len(near):
        return float("nan")
    return float(np.median(near[:, 1] * (near[:, 0] / (0.5 * (low + high))) ** 2))


def _row(real: float, simulated: float) -> dict[str, float]:
    return {
        "real": float(real),
        "simulated": float(simulated),
        "ratio": float(simulated / real) if real else 0,
    }
