"""Time of the fusion detector per frame with each engine on the CPU, compared with PointPillars.

    multimodal-perception bench detector --kitti PATH_OF_KITTI_TRAINING --baseline POINTPILLARS

The baseline is a checkout of github.com/zhulf0804/PointPillars (MIT), run with torch as its test.py
does. Its CUDA extensions cannot be built without a GPU; a compiled voxeliser and this package's NMS
replace them. Its published weights are used if the checkout contains them; otherwise its weights
are random. The detectors run alternately, frame by frame, so that other load on the machine affects
all of them. `cpu_time` is the CPU time summed over all cores, which other processes do not increase.
"""

from __future__ import annotations

import importlib
import sys
import time
import types
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.benchmarks.report import (
    add_json_argument,
    add_seconds_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector, Network
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.kernels import njit
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.engine import Arrays, run_many
from multimodal_perception.runtime.onnxruntime import available_cores
from multimodal_perception.runtime.settings import EngineName, Precision, RuntimeConfig

DEFAULT_SECONDS = 20.0
MIN_ROUNDS, FRAMES = 3, 8
TARGET_MS, TARGET_PART_MS = 100.0, 10.0
# How many times faster than ONNX Runtime in float32, and than PointPillars.
TARGET_RATIO, TARGET_BASELINE_RATIO = 2.0, 10.0
ENGINES: tuple[tuple[EngineName, Precision], ...] = (
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("torch", "fp32"),
)
Step = Callable[[SensorFrame], Mapping[str, float]]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="bev_fusion",
        help="name of a shipped detector model, or a model folder (default: bev_fusion)",
    )
    parser.add_argument(
        "--kitti",
        type=Path,
        help="KITTI training folder (default: frames of the synthetic dataset)",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        help="checkout of github.com/zhulf0804/PointPillars to compare with",
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        metavar="ENGINE",
        help="only these, for example onnxruntime openvino_bf16 (default: all that work)",
    )
    parser.add_argument(
        "--cache",
        default="",
        help="cache folder with the int8 models of `export int8` (default: the user's)",
    )
    add_seconds_argument(parser, DEFAULT_SECONDS)
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads per network; 0 (default) uses all cores"
    )
    add_json_argument(parser)


def run(args: Namespace) -> int:
    check_options(args)
    print_report("detector", measure(args), args.json)
    return 0


def measure(args: Namespace) -> dict[str, Any]:
    """Milliseconds per frame of each detector, in total and per part, and the targets.

    Raises UserError if a network cannot run or --baseline is not a PointPillars checkout.
    """
    threads, steps = args.threads or available_cores(), {}
    if args.baseline is not None:
        baseline, steps["pointpillars"] = baseline_step(args.baseline, threads)
    source, frames = load_frames(args.kitti)
    not_used = {}
    for engine, precision in ENGINES:
        label = engine if precision == "fp32" else f"{engine}_{precision}"
        if args.engines and label not in args.engines:
            continue
        config = RuntimeConfig(
            order=(engine,),
            device="cpu",
            threads=args.threads,
            precision=precision,
            cache=args.cache,
        )
        try:
            steps[label] = detector_step(args.model, config)
        except UserError as error:
            not_used[label] = str(error)
    if not steps:
        raise UserError(f"bench detector: no engine works: {not_used}")
    result: dict[str, Any] = {
        "frames": f"{len(frames)} of {source}",
        "points": int(np.mean([len(f.points_in_base()) for f in frames])),
        "threads": threads,
        "ms": run_alternately(steps, frames, args.seconds),
    }
    result["not_used"] = not_used
    totals = {name: parts["total"]["p50"] for name, parts in result["ms"].items()}
    baseline_ms = totals.pop("pointpillars", None)
    fastest = result["fastest"] = min(totals, key=lambda name: totals[name])
    ours, targets_met = result["ms"][fastest], {}
    targets_met["total"] = ours["total"]["p50"] <= TARGET_MS
    for name in ("preprocessing", "proposal_postprocessing", "refinement_postprocessing"):
        targets_met[name] = ours[name]["p50"] <= TARGET_PART_MS
    if "onnxruntime" in totals:
        ratio = result["times_faster_than_onnxruntime"] = totals["onnxruntime"] / totals[fastest]
        targets_met["times_faster_than_onnxruntime"] = ratio >= TARGET_RATIO
    if baseline_ms is not None:
        result["baseline"] = baseline
        ratio = result["times_faster_than_baseline"] = baseline_ms / totals[fastest]
        targets_met["times_faster_than_baseline"] = ratio >= TARGET_BASELINE_RATIO
    result["targets"] = {
        "ms": TARGET_MS,
        "part_ms": TARGET_PART_MS,
        "times_faster_than_onnxruntime": TARGET_RATIO,
        "times_faster_than_baseline": TARGET_BASELINE_RATIO,
    }
    return {**result, "targets_met": targets_met}


def load_frames(root: Path | None) -> tuple[str, list[SensorFrame]]:
    """Name and first frames of a KITTI folder, or of the synthetic dataset if there is no folder."""
    from multimodal_perception.datasets.kitti import KittiDataset
    from multimodal_perception.datasets.synthetic import SyntheticDataset

    dataset = SyntheticDataset(4) if root is None else KittiDataset(root)
    return dataset.name, [dataset[k] for k in range(min(len(dataset), FRAMES))]


class TimedNetwork:
    """A network that records the start and end of its last run and the total time of all runs,
    seconds."""

    def __init__(self, engine: Network) -> None:
        self.engine, self.inputs, self.device = engine, engine.inputs, engine.device
        self.start = self.end = self.total = 0.0

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        self.start = time.perf_counter()
        results = self.engine.run(arrays)
        self.end = time.perf_counter()
        self.total += self.end - self.start
        return results

    def run_many(self, frames: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        self.start = time.perf_counter()
        results = run_many(self.engine, frames)
        self.end = time.perf_counter()
        self.total += self.end - self.start
        return results


def detector_step(model: str, config: RuntimeConfig) -> Step:
    """A function that detects in one frame and returns the seconds of each part.

    Parts: `preprocessing` (without the image networks), `images` (image networks), `proposals` and
    `refinement` (the networks of the two stages), `proposal_postprocessing` (code between the stages)
    and `refinement_postprocessing` (code after the last stage).
    """
    detector = BevFusionDetector(FusionConfig(model), config)
    found = getattr(detector.proposal_network, "precision", config.engine_precision)
    if found != config.engine_precision:
        reasons = getattr(detector.proposal_network, "unavailable", {})
        raise UserError(f"{config.engine_precision}: {'; '.join(map(str, reasons.values()))}")
    detector.proposal_network = first = TimedNetwork(detector.proposal_network)
    refinement = detector.refinement_network
    second = None if refinement is None else TimedNetwork(refinement)
    detector.refinement_network = second
    images = {name: TimedNetwork(network) for name, network in detector.image_networks.items()}
    detector.image_networks.update(images)

    def step(frame: SensorFrame) -> dict[str, float]:
        for network in images.values():
            network.total = 0.0
        start = time.perf_counter()
        detector.prepare(frame)
        detector.detect(frame, segment_ground(frame))
        end = time.perf_counter()
        last = first if second is None else second
        image_time = sum(network.total for network in images.values())
        parts = {
            "preprocessing": first.start - start - image_time,
            "images": image_time,
            "proposals": first.end - first.start,
            "proposal_postprocessing": last.start - first.end if second is not None else 0.0,
            "refinement": last.end - last.start if second is not None else 0.0,
            "refinement_postprocessing": end - last.end,
        }
        if detector.failures:
            raise UserError(f"bench detector: {config.order[0]} could not run a frame")
        return parts

    return step


def run_alternately(
    steps: Mapping[str, Step], frames: Sequence[SensorFrame], seconds: float
) -> dict[str, Any]:
    """Percentiles (ms) of the total time, the parts and the CPU time of each step, run in
    alternation."""
    for step in steps.values():
        step(frames[0])
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in steps}
    end = time.perf_counter() + seconds
    for round_index in range(10**6):
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            parts = step(frames[round_index % len(frames)])
            elapsed = {
                "total": time.perf_counter() - start,
                "cpu_time": time.process_time() - cpu_start,
            }
            for part, value in {**elapsed, **parts}.items():
                times[name][part].append(1e3 * value)
        if round_index + 1 >= MIN_ROUNDS * len(frames) and time.perf_counter() >= end:
            break
    return {
        name: {part: {"min": min(v), **latency_percentiles(v)} for part, v in parts.items()}
        for name, parts in times.items()
    }


def baseline_step(folder: Path, threads: int) -> tuple[str, Step]:
    """A description of the baseline and a function that runs PointPillars of a checkout on one sweep.

    Raises UserError if the folder is not a PointPillars checkout or cannot be imported.
    """
    if not (folder / "pointpillars" / "model" / "pointpillars.py").is_file():
        raise UserError(f"--baseline {folder}: no checkout of PointPillars (pointpillars/model)")
    import torch

    install_operators()
    sys.path.insert(0, str(folder))
    try:
        network = importlib.import_module("pointpillars.model").PointPillars(nclasses=3).eval()
        process = importlib.import_module("pointpillars.utils.process")
    except (ImportError, AttributeError) as error:
        raise UserError(f"--baseline {folder}: {error}") from error
    finally:
        sys.path.remove(str(folder))
    weights, description = folder / "pretrained" / "epoch_160.pth", "random weights"
    if weights.is_file():
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        description = "published weights"
    low, high = np.split(np.array(network.pillar_layer.voxel_layer.point_cloud_range), 2)
    limits = np.array([0, -40, -3, 70.4, 40, 0], np.float32)

    def step(frame: SensorFrame) -> dict[str, float]:
        torch.set_num_threads(threads)
        points = next(iter(frame.lidars.values())).points
        within = ((points[:, :3] > low) & (points[:, :3] < high)).all(axis=1)
        with torch.inference_mode():
            result = network([torch.from_numpy(points[within])], mode="test")[0]
        if isinstance(result, dict):  # a list means that there are no detections
            process.keep_bbox_from_lidar_range(result, limits)
        return {}

    return f"zhulf0804/PointPillars, {description}", step


def install_operators() -> None:
    """Register CPU replacements of the baseline's CUDA extensions as the module pointpillars.ops."""
    import torch

    class Voxelization(torch.nn.Module):
        """Points (N, 4) to voxels (V, max_num_points, 4), cells (V, 3) x y z and point counts (V,)."""

        def __init__(
            self,
            voxel_size: Sequence[float],
            point_cloud_range: Sequence[float],
            max_num_points: int,
            max_voxels: tuple[int, int],
        ) -> None:
            super().__init__()
            self.voxel_size, self.point_cloud_range = voxel_size, point_cloud_range
            self.max_points, self.max_voxels = max_num_points, max_voxels

        def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
            arrays = voxelise(
                points.numpy(),
                np.array(self.point_cloud_range, np.float32),
                np.array(self.voxel_size, np.float32),
                self.max_points,
                self.max_voxels[0 if self.training else 1],
            )
            return tuple(torch.from_numpy(a) for a in arrays)

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
        setattr(overlaps, name, None)  # only used in training
    operators.Voxelization, operators.nms_cuda = Voxelization, nms  # type: ignore[attr-defined]
    sys.modules |= {"pointpillars.ops": operators, "pointpillars.ops.iou3d_module": overlaps}


@njit(nogil=True)
def voxelise(points, bounds, size, max_points, max_voxels):  # type: ignore[no-untyped-def]
    """Assign points (N, 4) to voxels in order; points of full voxels, and voxels beyond max_voxels,
    are dropped.

    bounds: (6,) minimum and maximum x y z, metres. size: (3,) voxel size, metres.
    """
    columns = int(np.round((bounds[3] - bounds[0]) / size[0]))
    rows = int(np.round((bounds[4] - bounds[1]) / size[1]))
    slots = np.full(columns * rows, -1, np.int32)
    voxels = np.zeros((max_voxels, max_points, points.shape[1]), np.float32)
    cells, counts = np.zeros((max_voxels, 3), np.int32), np.zeros(max_voxels, np.int32)
    count = 0
    for i in range(len(points)):
        x = int(np.floor((points[i, 0] - bounds[0]) / size[0]))
        y = int(np.floor((points[i, 1] - bounds[1]) / size[1]))
        if not (0 <= x < columns and 0 <= y < rows and bounds[2] <= points[i, 2] < bounds[5]):
            continue
        slot = slots[y * columns + x]
        if slot < 0:
            if count == max_voxels:
                continue
            slot = count
            slots[y * columns + x] = slot
            cells[slot, 0], cells[slot, 1] = x, y
            count += 1
        if counts[slot] < max_points:
            voxels[slot, counts[slot]] = points[i]
            counts[slot] += 1
    return voxels[:count], cells[:count], counts[:count]
