"""The simulator held against real sweeps of a Velodyne HDL-64E: KITTI's frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.kitti import LIDAR_HEIGHT, Kitti
from multimodal_perception.frame import CLASS_NAMES, SensorFrame
from multimodal_perception.geometry.boxes import points_in_boxes
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.simulation.simulation import Simulation

# KITTI's LiDAR turns at 10 Hz in steps of 0.1728 degrees (Geiger et al. 2013, table 1: 0.09 degrees of
# resolution, two blocks firing in turn).
COLUMNS = 2083
ELEVATIONS = np.array([-25.0, -20.0, -15.0, -10.0, -8.0, -6.0, -4.0, -2.0, 0.0, 2.5])
RANGES = np.array([0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 120.0])
CAR_RANGES = ((5.0, 10.0), (10.0, 15.0), (15.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 60.0))
CAR = CLASS_NAMES.index("car")
FIELD_OF_VIEW = np.radians(40.0)  # half, of the sweeps that KITTI cut to the camera's


@dataclass
class SweepStatistics:
    """What is counted of many sweeps, in the field of view of the camera ahead."""

    sweeps: int
    points: float
    by_elevation: NDArray[np.float64]
    by_range: NDArray[np.float64]
    intensity: tuple[float, float]
    ground_noise: float
    cars: NDArray[np.float64]  # (N, 3) distance, points, silhouette in square metres


def kitti_rig() -> Rig:
    """KITTI's LiDAR alone, as the simulator needs it."""
    sensor = {
        "modality": "lidar",
        "topic": "/lidar/points",
        "frame_id": "lidar",
        "extrinsics": {"xyz": [0.0, 0.0, LIDAR_HEIGHT]},
        "simulation": {"model": "hdl64", "columns": COLUMNS, "motion_distortion": False},
    }
    return parse_rig({"name": "kitti", "sensors": {"lidar": sensor}}, "KITTI's rig")


def gather(frames: Iterable[tuple[SensorFrame, NDArray[np.bool_]]]) -> SweepStatistics:
    """Statistics of frames, each with a mask of the labels whose points are all there to be seen."""
    elevations, ranges, shades, noises, cars, points = [], [], [], [], [], []
    for frame, clear in frames:
        xyz = frame.lidars["lidar"].points
        ahead = np.abs(np.arctan2(xyz[:, 1], xyz[:, 0])) < FIELD_OF_VIEW
        # KITTI's sweeps that were cut to the image lack the ground near by.
        whole = float(np.mean(ahead)) < 0.9
        xyz = xyz[ahead]
        flat = np.linalg.norm(xyz[:, :2], axis=1)
        far = np.linalg.norm(xyz[:, :3], axis=1)
        if whole:
            points.append(len(xyz))
            elevations.append(np.histogram(np.degrees(np.arctan2(xyz[:, 2], flat)), ELEVATIONS)[0])
            ranges.append(np.histogram(far, RANGES)[0])
        shades.append(xyz[:, 3])
        noises += _ground_noise(xyz)
        assert frame.labels is not None
        boxes = frame.labels.boxes[clear & (frame.labels.labels == CAR)]
        in_base = frame.points_in_base()
        # Measured points scatter about the faces; the ground below is left out.
        boxes = boxes + np.array([0, 0, 0.08, 0.1, 0.1, -0.12, 0], np.float32)
        middle = np.linalg.norm(boxes[:, :2], axis=1)
        seen = (np.abs(np.arctan2(boxes[:, 1], boxes[:, 0])) < FIELD_OF_VIEW - 0.1) & (middle > 4)
        counts = points_in_boxes(in_base, boxes)
        cars.append(np.column_stack([middle, counts, _silhouette(boxes)])[seen])
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
    """Area (N,) of boxes' outlines as seen from the origin."""
    turn = boxes[:, 6] - np.arctan2(boxes[:, 1], boxes[:, 0])
    across = boxes[:, 3] * np.abs(np.sin(turn)) + boxes[:, 4] * np.abs(np.cos(turn))
    return np.asarray(across * boxes[:, 5], np.float64)


def _ground_noise(points: NDArray[np.float32]) -> list[float]:
    """Spread of the height about a plane in patches of 1 m of the road ahead."""
    spreads = []
    for x in range(6, 16):
        near = (np.abs(points[:, 0] - x) < 0.5) & (np.abs(points[:, 1]) < 1.0)
        patch = points[near & (points[:, 2] < -LIDAR_HEIGHT + 0.35)].astype(np.float64)
        if len(patch) < 30:
            continue
        design = np.column_stack([patch[:, :2], np.ones(len(patch))])
        plane = np.linalg.lstsq(design, patch[:, 2], rcond=None)[0]
        rest = patch[:, 2] - design @ plane
        spreads.append(float(1.4826 * np.median(np.abs(rest))))
    return spreads


def real_frames(root: Path) -> Iterable[tuple[SensorFrame, NDArray[np.bool_]]]:
    """KITTI's labelled frames; clear are the labels it calls at most partly occluded and not
    truncated."""
    dataset = Kitti(root)
    for index, stem in enumerate(dataset.stems):
        frame = dataset[index]
        lines = (root / "label_2" / f"{stem}.txt").read_text(encoding="ascii").splitlines()
        words = [line.split() for line in lines if line and not line.startswith("DontCare")]
        yield frame, np.array([float(w[1]) <= 0.1 and int(w[2]) <= 1 for w in words], np.bool_)


def simulated_frames(
    scenario: str, frames: int, seed: int
) -> Iterable[tuple[SensorFrame, NDArray[np.bool_]]]:
    """Frames 2 s apart of a scenario; clear are the labels of which most is in sight."""
    simulation = Simulation(scenario, kitti_rig(), seed, frames * 20)
    for index in range(0, frames * 20, 20):
        observation = simulation.observe(index)
        yield observation.frame, observation.truth.visibility > 0.7


def compare(root: Path, scenario: str = "urban_street", frames: int = 12) -> dict[str, Any]:
    """Real, simulated and their ratio, by name; points on cars for each real car as well."""
    real, made = gather(real_frames(root)), gather(simulated_frames(scenario, frames, 1))
    table: dict[str, Any] = {
        "whole sweeps": _row(real.sweeps, made.sweeps),
        "points ahead": _row(real.points, made.points),
        "intensity mean": _row(real.intensity[0], made.intensity[0]),
        "intensity spread": _row(real.intensity[1], made.intensity[1]),
        "ground height noise (m)": _row(real.ground_noise, made.ground_noise),
    }
    for k in range(len(ELEVATIONS) - 1):
        name = f"points at {ELEVATIONS[k]:g} to {ELEVATIONS[k + 1]:g} deg"
        table[name] = _row(real.by_elevation[k], made.by_elevation[k])
    for k in range(len(RANGES) - 1):
        name = f"points at {RANGES[k]:g} to {RANGES[k + 1]:g} m"
        table[name] = _row(real.by_range[k], made.by_range[k])
    for low, high in CAR_RANGES:
        pair = [_on_cars(s.cars, low, high) for s in (real, made)]
        table[f"points on a car at {low:g} to {high:g} m, at the middle"] = _row(*pair)
    for distance, count, area in real.cars[np.argsort(real.cars[:, 0])]:
        near = made.cars[np.abs(made.cars[:, 0] / distance - 1.0) < 0.12]
        # As if each stood at the real one's distance and were as large.
        like = near[:, 1] * (near[:, 0] / distance) ** 2 * area / near[:, 2]
        name = f"points on the real car at {distance:.1f} m"
        table[name] = _row(count, float(np.median(like)) if len(like) else float("nan"))
    return table


def _on_cars(cars: NDArray[np.float64], low: float, high: float) -> float:
    """Median points on a car between two distances, as if it stood in their middle."""
    near = cars[(cars[:, 0] >= low) & (cars[:, 0] < high)]
    if not len(near):
        return float("nan")
    return float(np.median(near[:, 1] * (near[:, 0] / (0.5 * (low + high))) ** 2))


def _row(real: float, made: float) -> dict[str, float]:
    return {
        "real": float(real),
        "simulated": float(made),
        "ratio": float(made / real) if real else 0,
    }
