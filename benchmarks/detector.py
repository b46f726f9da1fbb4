"""The fusion detector from a frame to its boxes, by ONNX Runtime and by torch, beside PointPillars.

    multimodal-perception bench detector --kitti PATH_OF_KITTI_TRAINING --peer POINTPILLARS

The peer is a checkout of github.com/zhulf0804/PointPillars (MIT), run by torch as its test.py does. Its
CUDA extensions do not build without a GPU: a compiled voxeliser and this package's suppression stand in
for them. Its published weights are read where the checkout has them, else they are random and nothing is
suppressed. All take turns, frame by frame, so that what else the machine does falls on all alike;
`cores` is the time of all cores together, which other work does not lengthen.
"""

from __future__ import annotations

import importlib
import sys
import time
import types
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector, Network
from multimodal_perception.evaluation.detections import percentiles
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.settings import EngineName, RuntimeConfig

DEFAULT_SECONDS = 20.0
MIN_ROUNDS, FRAMES = 3, 8
TARGET_MS, TARGET_PART_MS, TARGET_RATIO = 150.0, 10.0, 3.0
ENGINES: tuple[EngineName, ...] = ("onnxruntime", "torch")
Step = Callable[[SensorFrame], Mapping[str, float]]


def run(args: Namespace) -> dict[str, Any]:
    """Milliseconds a frame by what runs it, in total and by parts; targets and whether they are met.

    Raises UserError where no engine works, or for a --peer that is not PointPillars.
    """
    threads, steps = args.threads or available_cores(), {}
    if args.peer is not None:
        told, steps["pointpillars"] = peer_step(args.peer, threads)
    source, frames = frames_of(args.kitti)
    steps |= {name: our_step(args.model or "detector", name, args.threads) for name in ENGINES}
    result: dict[str, Any] = {
        "frames": f"{len(frames)} of {source}",
        "points": int(np.mean([len(f.points_in_base()) for f in frames])),
        "threads": threads,
        "ms": take_turns(steps, frames, args.seconds or DEFAULT_SECONDS),
    }
    ours, met = result["ms"]["onnxruntime"], {}
    met["total"] = ours["total"]["p50"] <= TARGET_MS
    for name in ("before", "between", "after"):
        met[name] = ours[name]["p50"] <= TARGET_PART_MS
    result["torch_over_onnxruntime"] = result["ms"]["torch"]["total"]["p50"] / ours["total"]["p50"]
    if args.peer is not None:
        result["peer"] = told
        ratio = result["ms"]["pointpillars"]["total"]["p50"] / ours["total"]["p50"]
        result["times_faster"] = ratio
        met["times_faster"] = ratio >= TARGET_RATIO
    result["targets"] = {"ms": TARGET_MS, "part_ms": TARGET_PART_MS, "times_faster": TARGET_RATIO}
    return {**result, "met": met}


def frames_of(root: Path | None) -> tuple[str, list[SensorFrame]]:
    """The first frames of a KITTI folder, else of the synthetic street."""
    from multimodal_perception.datasets.kitti import Kitti
    from multimodal_perception.datasets.synthetic import SyntheticStreet

    dataset = SyntheticStreet(4) if root is None else Kitti(root)
    return dataset.name, [dataset[k] for k in range(min(len(dataset), FRAMES))]


class Watched:
    """An engine whose last run's begin and end are known, and how long all runs took together."""

    def __init__(self, engine: Network) -> None:
        self.engine, self.inputs, self.device = engine, engine.inputs, engine.device
        self.begin = self.end = self.took = 0.0

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        self.begin = time.perf_counter()
        results = self.engine.run(arrays)
        self.end = time.perf_counter()
        self.took += self.end - self.begin
        return results


def our_step(model: str, engine: EngineName, threads: int) -> Step:
    """One frame through the detector: before (images' networks apart), between and after the networks,
    and these."""
    config = RuntimeConfig(order=(engine,), device="cpu", threads=threads)
    detector = FusionDetector(FusionConfig(model), config)
    detector.proposals = first = Watched(detector.proposals)
    second = None if detector.refinement is None else Watched(detector.refinement)
    detector.refinement = second
    images = {kind: Watched(network) for kind, network in detector.images.items()}
    detector.images.update(images)

    def step(frame: SensorFrame) -> dict[str, float]:
        for network in images.values():
            network.took = 0.0
        start = time.perf_counter()
        detector.look_ahead(frame)
        detector.detect(frame, ground_cloud(frame))
        end = time.perf_counter()
        last = first if second is None else second
        seen = sum(network.took for network in images.values())
        parts = {
            "before": first.begin - start - seen,
            "images": seen,
            "proposals": first.end - first.begin,
            "between": last.begin - first.end if second is not None else 0.0,
            "refinement": last.end - last.begin if second is not None else 0.0,
            "after": end - last.end,
        }
        if detector.failures:
            raise UserError(f"bench detector: {engine} could not run a frame")
        return parts

    return step


def take_turns(
    steps: Mapping[str, Step], frames: Sequence[SensorFrame], seconds: float
) -> dict[str, Any]:
    """Percentiles of each step's total and parts, and of the time of all cores together."""
    for step in steps.values():
        step(frames[0])
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in steps}
    end = time.perf_counter() + seconds
    for turn in range(10**6):
        for name, step in steps.items():
            start, cores = time.perf_counter(), time.process_time()
            parts = step(frames[turn % len(frames)])
            took = {"total": time.perf_counter() - start, "cores": time.process_time() - cores}
            for part, value in {**took, **parts}.items():
                times[name][part].append(1e3 * value)
        if turn + 1 >= MIN_ROUNDS * len(frames) and time.perf_counter() >= end:
            break
    return {
        name: {part: {"min": min(v), **percentiles(v)} for part, v in parts.items()}
        for name, parts in times.items()
    }


def peer_step(folder: Path, threads: int) -> tuple[str, Step]:
    """PointPillars of a checkout, from the sweep in the LiDAR's frame to boxes. Raises UserError."""
    if not (folder / "pointpillars" / "model" / "pointpillars.py").is_file():
        raise UserError(f"--peer {folder}: no checkout of PointPillars (pointpillars/model)")
    import torch

    install_operators()
    sys.path.insert(0, str(folder))
    try:
        network = importlib.import_module("pointpillars.model").PointPillars(nclasses=3).eval()
        process = importlib.import_module("pointpillars.utils.process")
    except (ImportError, AttributeError) as error:
        raise UserError(f"--peer {folder}: {error}") from error
    finally:
        sys.path.remove(str(folder))
    weights, told = folder / "pretrained" / "epoch_160.pth", "random weights"
    if weights.is_file():
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        told = "published weights"
    low, high = np.split(np.array(network.pillar_layer.voxel_layer.point_cloud_range), 2)
    limits = np.array([0, -40, -3, 70.4, 40, 0], np.float32)

    def step(frame: SensorFrame) -> dict[str, float]:
        torch.set_num_threads(threads)
        points = next(iter(frame.lidars.values())).points
        within = ((points[:, :3] > low) & (points[:, :3] < high)).all(axis=1)
        with torch.inference_mode():
            found = network([torch.from_numpy(points[within])], mode="test")[0]
        if isinstance(found, dict):  # else nothing was found
            process.keep_bbox_from_lidar_range(found, limits)
        return {}

    return f"zhulf0804/PointPillars, {told}", step


def install_operators() -> None:
    """Put modules in the place of the peer's extensions: pointpillars.ops and what it holds."""
    import torch

    class Voxelization(torch.nn.Module):
        """Points (N, 4) to voxels (V, most, 4), their cells (V, 3) x y z and counts (V,)."""

        def __init__(
            self,
            voxel_size: Sequence[float],
            point_cloud_range: Sequence[float],
            max_num_points: int,
            max_voxels: tuple[int, int],
        ) -> None:
            super().__init__()
            self.voxel_size, self.point_cloud_range = voxel_size, point_cloud_range
            self.most, self.max_voxels = max_num_points, max_voxels

        def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = voxelise(
                points.numpy(),
                np.array(self.point_cloud_range, np.float32),
                np.array(self.voxel_size, np.float32),
                self.most,
                self.max_voxels[0 if self.training else 1],
            )
            return tuple(torch.from_numpy(a) for a in made)

    def nms(boxes: torch.Tensor, scores: torch.Tensor, thresh: float, **_: object) -> torch.Tensor:
        x0, y0, x1, y1, yaw = boxes.numpy().T
        flat = np.zeros((len(boxes), 7))
        flat[:, :2] = np.column_stack([(x0 + x1) / 2, (y0 + y1) / 2])
        flat[:, 3:6] = np.column_stack([x1 - x0, y1 - y0, np.ones(len(boxes))])
        flat[:, 6] = yaw
        return torch.from_numpy(non_maximum_suppression(flat, scores.numpy(), thresh))

    operators = types.ModuleType("pointpillars.ops")
    operators.__path__ = []
    overlaps = types.ModuleType("pointpillars.ops.iou3d_module")
    for name in ("boxes_overlap_bev", "boxes_iou_bev"):
        setattr(overlaps, name, None)  # of training alone
    operators.Voxelization, operators.nms_cuda = Voxelization, nms  # type: ignore[attr-defined]
    sys.modules |= {"pointpillars.ops": operators, "pointpillars.ops.iou3d_module": overlaps}


@numba.njit(cache=True, nogil=True)
def voxelise(points, span, size, most, voxels):  # type: ignore[no-untyped-def]
    """Each point to its cell, in order; a full cell and a full list take no more."""
    columns = int(np.round((span[3] - span[0]) / size[0]))
    rows = int(np.round((span[4] - span[1]) / size[1]))
    slots = np.full(columns * rows, -1, np.int32)
    made = np.zeros((voxels, most, points.shape[1]), np.float32)
    cells, counts = np.zeros((voxels, 3), np.int32), np.zeros(voxels, np.int32)
    count = 0
    for i in range(len(points)):
        x = int(np.floor((points[i, 0] - span[0]) / size[0]))
        y = int(np.floor((points[i, 1] - span[1]) / size[1]))
        if not (0 <= x < columns and 0 <= y < rows and span[2] <= points[i, 2] < span[5]):
            continue
        slot = slots[y * columns + x]
        if slot < 0:
            if count == voxels:
                continue
            slot = count
            slots[y * columns + x] = slot
            cells[slot, 0], cells[slot, 1] = x, y
            count += 1
        if counts[slot] < most:
            made[slot, counts[slot]] = points[i]
            counts[slot] += 1
    return made[:count], cells[:count], counts[:count]
