"""Time of evidential occupancy on one CPU core, compared with OctoMap on the same points.

    multimodal-perception bench occupancy --kitti KITTI/training --reference-python VENV/bin/python

OctoMap (pip install pyoctomap) is not a dependency of this package. --reference-python names a Python
interpreter that has it; by default the current interpreter is tried. Without --kitti the points are
synthetic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# These must be set before numpy and numba are imported. The command line imports only the module of the
# selected command, so numpy is not imported at this point.
for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from multimodal_perception.benchmarks.report import (  # noqa: E402
    add_json_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError  # noqa: E402
from multimodal_perception.latency import latency_percentiles  # noqa: E402

POINTS = 120_000
EXTENT, RESOLUTION = 40.0, 0.2
DEFAULT_REPEATS = 100
TARGET_MS, ULTRASONIC_TARGET_MS, TARGET_RATIO = 15.0, 1.0, 5.0
OCTOMAP_SCRIPT = r"""
import json, sys, time
import numpy as np, pyoctomap
data = np.load(sys.argv[1])
points, origin, repeats = data["points"].astype(np.float64), data["origin"], int(sys.argv[2])
result = {"version": pyoctomap.__version__}
for name, options in {"exact": {}, "discretized": {"discretize": True, "lazy_eval": True}}.items():
    times = []
    for _ in range(repeats):
        tree = pyoctomap.OcTree(float(data["resolution"]))
        tree.insertPointCloud(points[:1000], origin)
        start = time.perf_counter()
        tree.insertPointCloud(points, origin, max_range=float(data["max_range"]), **options)
        times.append(1e3 * (time.perf_counter() - start))
    result[name] = {"p50": float(np.median(times)), "p95": float(np.percentile(times, 95))}
print(json.dumps(result))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kitti", type=Path, help="KITTI training folder (default: a synthetic sweep)"
    )
    parser.add_argument(
        "--reference-python",
        type=Path,
        help="Python interpreter with pyoctomap (default: the current one)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=DEFAULT_REPEATS,
        help=f"number of measured updates (default: {DEFAULT_REPEATS})",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    check_options(args)
    print_report("occupancy", measure(args), args.json)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark on one core.

    Keys: points, source, ours_ms, ultrasonic_ms, octomap_ms, times_faster (p50 of OctoMap's faster mode
    divided by our total p50), targets and targets_met. Raises UserError if --reference-python
    has no pyoctomap.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores is not None:
        os.sched_setaffinity(0, {min(cores)})
    try:
        return _measure(args.kitti, args.reference_python, args.repeats)
    finally:
        if cores is not None:
            os.sched_setaffinity(0, cores)


def _measure(root: Path | None, octomap_python: Path | None, repeats: int) -> dict[str, Any]:
    points, origin, source = load_sweep(root)
    result: dict[str, Any] = {"source": source, "points": len(points), "repeats": repeats}
    ours = time_ours(points, origin, repeats)
    result["ours_ms"] = ours
    result["ultrasonic_ms"] = time_ultrasonics(repeats)
    octomap = time_octomap(points, origin, octomap_python, max(repeats // 10, 3))
    result["octomap_ms"] = octomap
    targets_met = {
        "total": ours["total"]["p50"] <= TARGET_MS,
        "ultrasonic": result["ultrasonic_ms"]["p50"] <= ULTRASONIC_TARGET_MS,
    }
    if octomap is not None:
        best = min(octomap[name]["p50"] for name in ("exact", "discretized"))
        result["times_faster"] = best / ours["total"]["p50"]
        targets_met["times_faster"] = result["times_faster"] >= TARGET_RATIO
    result["targets"] = {
        "total_ms": TARGET_MS,
        "ultrasonic_ms": ULTRASONIC_TARGET_MS,
        "times_faster": TARGET_RATIO,
    }
    result["targets_met"] = targets_met
    return result


def load_sweep(root: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Points (N, 4) float32 in the LiDAR frame, N at most 120000; the LiDAR position (3,) in
    base_link; the name of the dataset."""
    from multimodal_perception.datasets.dataset import Dataset
    from multimodal_perception.datasets.kitti import KittiDataset
    from multimodal_perception.datasets.synthetic import SyntheticDataset

    dataset: Dataset
    if root is not None:
        dataset = KittiDataset(root)
        frame = max(dataset, key=lambda f: len(f.lidars["lidar"].points))
    else:
        dataset = SyntheticDataset(1, rings=64, columns=2200)
        frame = dataset[0]
    points = frame.lidars["lidar"].points
    if len(points) > POINTS:
        rng = np.random.default_rng(0)
        points = points[np.sort(rng.choice(len(points), POINTS, replace=False))]
    return points, frame.base_from_sensor["lidar"][:3, 3], dataset.name


def time_ours(points: np.ndarray, origin: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the ground segmentation and of the mapper update while the vehicle drives a
    curve."""
    from multimodal_perception.frame import LidarSweep, SensorFrame
    from multimodal_perception.geometry import poses
    from multimodal_perception.occupancy.evidential import EvidentialMapper
    from multimodal_perception.occupancy.raycast import RaycastConfig
    from multimodal_perception.pointcloud.ground_segmentation import segment_ground

    mapper = EvidentialMapper(raycast=RaycastConfig(half_extent=EXTENT, resolution=RESOLUTION))
    ground_ms, update_ms = [], []
    for k in range(repeats + 3):
        stamp = k * 100_000_000
        frame = SensorFrame(
            stamp,
            lidars={"lidar": LidarSweep("lidar", stamp, "lidar", points)},
            base_from_sensor={"lidar": poses.from_xyz_rpy(origin)},
            odom_from_base=poses.from_xyz_rpy((0.83 * k, 0.11 * k, 0.0), (0.0, 0.0, 0.01 * k)),
        )
        start = time.perf_counter()
        cloud = segment_ground(frame)
        segmented = time.perf_counter()
        mapper.update(frame, cloud)
        end = time.perf_counter()
        if k >= 3:  # the first updates compile and fill the caches
            ground_ms.append(1e3 * (segmented - start))
            update_ms.append(1e3 * (end - segmented))
    total = np.add(ground_ms, update_ms)
    return {
        "ground": latency_percentiles(ground_ms),
        "update": latency_percentiles(update_ms),
        "total": latency_percentiles(total),
    }


def time_ultrasonics(repeats: int) -> dict[str, float]:
    """Milliseconds to update the grid with the echoes of twelve ultrasonic sensors around a car."""
    from multimodal_perception.frame import SensorFrame, UltrasonicReading
    from multimodal_perception.geometry import poses
    from multimodal_perception.occupancy.evidence import EvidentialGrid
    from multimodal_perception.occupancy.ultrasonic import UltrasonicModel

    angles = np.linspace(-np.pi, np.pi, 12, endpoint=False)
    mounts = {
        f"ultrasonic_{k}": poses.from_xyz_rpy((2.3 * np.cos(a), 0.9 * np.sin(a), 0.5), (0, 0, a))
        for k, a in enumerate(angles)
    }
    grid, model = EvidentialGrid(round(2 * EXTENT / RESOLUTION), RESOLUTION), UltrasonicModel()
    rng = np.random.default_rng(0)

    def make_update(k: int) -> Callable[[], None]:
        stamp = k * 100_000_000
        readings = {
            name: UltrasonicReading(
                name, stamp, name, float(rng.normal(2.5, 0.02)), 0.15, 5.0, np.radians(70)
            )
            for name in mounts
        }
        frame = SensorFrame(stamp, ultrasonics=readings, base_from_sensor=mounts)

        def update() -> None:
            evidence = model.evidence(frame, grid.cells)
            assert evidence is not None
            grid.combine(*evidence)

        return update

    times = []
    for k in range(repeats + 3):
        update = make_update(k)
        start = time.perf_counter()
        update()
        if k >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    return latency_percentiles(times)


def time_octomap(
    points: np.ndarray, origin: np.ndarray, python: Path | None, repeats: int
) -> dict[str, Any] | None:
    """Milliseconds that OctoMap needs to insert the points within the grid; None if it is not installed.

    Raises UserError if `python` is given and cannot run pyoctomap.
    """
    shifted = points[:, :3] + origin.astype(np.float32)
    inside = shifted[np.abs(shifted[:, :2]).max(axis=1) < EXTENT]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.npz"
        np.savez(
            file, points=inside, origin=origin, resolution=RESOLUTION, max_range=EXTENT * 1.4143
        )
        command = [str(python or sys.executable), "-c", OCTOMAP_SCRIPT, str(file), str(repeats)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except OSError as error:
            raise UserError(f"--reference-python {python}: {error.strerror or error}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["failed"])[-1]
        if python is not None:
            raise UserError(
                f"--reference-python {python}: {reason} (install it there: pip install pyoctomap)"
            )
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
