"""Time of evidential occupancy on one core, beside OctoMap on the same points.

    python benchmarks/occupancy.py --root PATH_OF_KITTI_TRAINING --peer-python VENV/bin/python

The peer (pip install pyoctomap) is no dependency: --peer-python names an interpreter that has it;
without one, the interpreter that runs this is tried. Without --root a made street is swept.
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

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from multimodal_perception.evaluation.detections import percentiles  # noqa: E402

POINTS = 120_000
EXTENT, RESOLUTION = 40.0, 0.2
TARGET_MS, ULTRASONIC_TARGET_MS, TARGET_RATIO = 15.0, 1.0, 5.0
PEER = r"""
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
        tree.insertPointCloud(points, origin, max_range=float(data["reach"]), **options)
        times.append(1e3 * (time.perf_counter() - start))
    result[name] = {"p50": float(np.median(times)), "p95": float(np.percentile(times, 95))}
print(json.dumps(result))
"""


def main() -> int:
    """Run and print; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, help="KITTI folder; its largest sweep is used")
    parser.add_argument("--peer-python", default=sys.executable, help="has pyoctomap")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--core", type=int, default=0, help="all runs on this one")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {args.core})
    points, origin, source = sweep(args.root)
    result: dict[str, object] = {"source": source, "points": len(points), "repeats": args.repeats}
    ours = time_ours(points, origin, args.repeats)
    result["ours_ms"] = ours
    result["ultrasonic_ms"] = time_ultrasonics(args.repeats)
    peer = time_peer(points, origin, args.peer_python, max(args.repeats // 10, 3))
    result["octomap_ms"] = peer
    if peer is not None:
        best = min(peer[name]["p50"] for name in ("exact", "discretized"))
        result["times_faster"] = best / ours["total"]["p50"]
    report(result)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    met = ours["total"]["p50"] <= TARGET_MS
    met &= result["ultrasonic_ms"]["p50"] <= ULTRASONIC_TARGET_MS  # type: ignore[index]
    return 0 if met and float(result.get("times_faster", np.inf)) >= TARGET_RATIO else 1  # type: ignore[arg-type]


def sweep(root: Path | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Points (120000, 4) float32 in the LiDAR's frame, its height (3,), and where they come from."""
    from multimodal_perception.datasets.kitti import Kitti
    from multimodal_perception.datasets.synthetic import SyntheticStreet

    if root is not None:
        dataset = Kitti(root)
        frame = max(dataset, key=lambda f: len(f.lidars["lidar"].points))
    else:
        dataset = SyntheticStreet(1, rings=64, columns=2200)
        frame = dataset[0]
    points = frame.lidars["lidar"].points
    if len(points) > POINTS:
        rng = np.random.default_rng(0)
        points = points[np.sort(rng.choice(len(points), POINTS, replace=False))]
    return points, frame.base_from_sensor["lidar"][:3, 3], dataset.name


def time_ours(points: np.ndarray, origin: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """Ground model, and the mapper's whole update, as the vehicle drives a bend."""
    from multimodal_perception.frame import LidarSweep, SensorFrame
    from multimodal_perception.geometry import poses
    from multimodal_perception.occupancy.evidential import EvidentialMapper
    from multimodal_perception.occupancy.raycast import RaycastConfig
    from multimodal_perception.preprocess.ground import ground_cloud

    mapper = EvidentialMapper(raycast=RaycastConfig(extent=EXTENT, resolution=RESOLUTION))
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
        cloud = ground_cloud(frame)
        middle = time.perf_counter()
        mapper.update(frame, cloud)
        end = time.perf_counter()
        if k >= 3:  # the first compile and fill the caches
            ground_ms.append(1e3 * (middle - start))
            update_ms.append(1e3 * (end - middle))
    total = np.add(ground_ms, update_ms)
    return {
        "ground": percentiles(ground_ms),
        "update": percentiles(update_ms),
        "total": percentiles(total),
    }


def time_ultrasonics(repeats: int) -> dict[str, float]:
    """Twelve sensors around a car: echoes confirmed, drawn and combined into the grid."""
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

    def once(k: int) -> Callable[[], None]:
        stamp = k * 100_000_000
        readings = {
            name: UltrasonicReading(
                name, stamp, name, float(rng.normal(2.5, 0.02)), 0.15, 5.0, np.radians(70)
            )
            for name in mounts
        }
        frame = SensorFrame(stamp, ultrasonics=readings, base_from_sensor=mounts)

        def run() -> None:
            evidence = model.evidence(frame, grid.cells)
            assert evidence is not None
            grid.combine(*evidence)

        return run

    times = []
    for k in range(repeats + 3):
        run = once(k)
        start = time.perf_counter()
        run()
        if k >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    return percentiles(times)


def time_peer(
    points: np.ndarray, origin: np.ndarray, python: str, repeats: int
) -> dict[str, dict[str, float]] | None:
    """OctoMap's insertion of the points that lie over the grid; None where it is not installed."""
    moved = points[:, :3] + origin.astype(np.float32)
    kept = moved[np.abs(moved[:, :2]).max(axis=1) < EXTENT]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.npz"
        np.savez(file, points=kept, origin=origin, resolution=RESOLUTION, reach=EXTENT * 1.4143)
        command = [python, "-c", PEER, str(file), str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["failed"])[-1]
        print(f"no peer: {reason} (pip install pyoctomap in a venv, then --peer-python)")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(result: dict[str, object]) -> None:
    """Print the figures with their targets."""
    ours, sound = result["ours_ms"], result["ultrasonic_ms"]
    print(f"{result['points']} points of {result['source']}, one core")
    for name, values in ours.items():  # type: ignore[attr-defined]
        print(f"  {name:<12} {values['p50']:8.2f} ms p50 {values['p95']:8.2f} ms p95")
    print(f"  target for the total: {TARGET_MS:g} ms")
    print(f"  12 ultrasonics {sound['p50']:6.2f} ms p50, target {ULTRASONIC_TARGET_MS:g} ms")  # type: ignore[index]
    peer = result["octomap_ms"]
    if isinstance(peer, dict):
        print(f"pyoctomap {peer['version']}, the points over the grid, {RESOLUTION:g} m voxels")
        for name in ("exact", "discretized"):
            print(f"  {name:<12} {peer[name]['p50']:8.2f} ms p50 {peer[name]['p95']:8.2f} ms p95")
        print(
            f"  times faster than its best: {result['times_faster']:.1f}, target {TARGET_RATIO:g}"
        )


if __name__ == "__main__":
    sys.exit(main())
