"""Detection metrics of this package compared with public evaluators on the same generated boxes.

The public evaluators run in a separate Python interpreter (reference_evaluators.py) that has
nuscenes-devkit, numba and shapely. --kitti-evaluator is the eval.py with AP R40 of a checkout such as
OpenPCDet (pcdet/datasets/kitti/kitti_object_eval_python/eval.py). Its GPU overlap is replaced by
shapely, so its run time is not reported.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.benchmarks.report import add_json_argument, print_report
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.kitti_metrics import (
    DONT_CARE,
    KittiFrame,
    KittiObjects,
    kitti_metrics,
)
from multimodal_perception.evaluation.nuscenes_metrics import (
    ERRORS,
    NuScenesProtocol,
    ScoredFrame,
    nuscenes_metrics,
)
from multimodal_perception.frame import Boxes3D

# nuScenes' ten classes with this package's name for the cone: length, width, height (m), count per
# frame.
SIZES = {
    "car": (4.6, 1.9, 1.7, 6),
    "truck": (6.9, 2.5, 2.8, 2),
    "bus": (11.0, 2.9, 3.5, 1),
    "trailer": (12.0, 2.9, 3.9, 1),
    "construction_vehicle": (6.4, 2.8, 3.2, 1),
    "pedestrian": (0.7, 0.7, 1.8, 6),
    "motorcycle": (2.1, 0.8, 1.5, 1),
    "bicycle": (1.7, 0.6, 1.3, 2),
    "cone": (0.4, 0.4, 1.1, 3),
    "barrier": (0.5, 2.5, 1.0, 3),
}
RANGES = dict(zip(SIZES, (50.0, 50, 50, 50, 50, 40, 40, 40, 30, 30), strict=True))
KITTI_SIZES = {
    "Car": (3.9, 1.6, 1.5, 6),
    "Van": (5.1, 1.9, 2.2, 1),
    "Pedestrian": (0.8, 0.6, 1.75, 5),
    "Person_sitting": (0.8, 0.6, 1.3, 1),
    "Cyclist": (1.8, 0.6, 1.75, 3),
    "Truck": (10.0, 2.6, 3.2, 1),
}


def nuscenes_frames(
    seed: int, frames: int = 40, without: tuple[str, ...] = ()
) -> list[ScoredFrame]:
    """Labels, and detections with misses, duplicates, position noise, wrong classes and tied scores.

    without: classes that get no labels. Only uniform random numbers are drawn, because numpy keeps their
    stream stable between versions.
    """
    rng = np.random.default_rng(seed)
    names = tuple(SIZES)
    result = []
    for index in range(frames):
        labels = np.concatenate(
            [np.full(s[3], k) for k, (n, s) in enumerate(SIZES.items()) if n not in without]
        )
        truth = _random_boxes(rng, np.array([SIZES[names[k]][:3] for k in labels]), 55.0)
        velocity = 10.0 * (rng.random((len(labels), 2)) - 0.5)
        velocity[rng.random(len(labels)) < 0.1] = np.nan
        attributes = np.floor(rng.random(len(labels)) * 4).astype(np.int64) - 1
        attributes[np.isin(labels, [names.index("cone"), names.index("barrier")])] = -1
        copies = np.flatnonzero(rng.random(2 * len(labels)) < 0.55) % len(labels)
        boxes, quality = _perturbed(rng, truth[copies], 6.0)
        false_positives = _random_boxes(rng, np.tile([4.0, 1.8, 1.6], (8, 1)), 55.0)
        boxes = np.concatenate([boxes, false_positives])
        classes = np.concatenate([labels[copies], np.floor(rng.random(8) * len(names))])
        misclassified = rng.random(len(classes)) < 0.08
        classes[misclassified] = np.floor(rng.random(int(misclassified.sum())) * len(names))
        scores = np.round(np.concatenate([quality, 0.5 * rng.random(8)]), 2)
        speeds = 10.0 * (rng.random((len(classes), 2)) - 0.5)
        speeds[: len(copies)] = np.nan_to_num(velocity[copies]) + rng.random((len(copies), 2)) - 0.5
        result.append(
            ScoredFrame(
                _boxes(index, boxes, scores, classes, names, speeds),
                _boxes(index, truth, np.ones(len(labels)), labels, names, velocity),
                attributes,
                np.floor(rng.random(len(classes)) * 4).astype(np.int64) - 1,
            )
        )
    return result


def kitti_frames(seed: int, frames: int = 60) -> list[KittiFrame]:
    """Labels of all difficulties, DontCare regions, and detections with misses, duplicates and noise."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(frames):
        types = [n for n, s in KITTI_SIZES.items() for _ in range(s[3])]
        truth = _random_boxes(rng, np.array([KITTI_SIZES[n][:3] for n in types]), 25.0)
        truth[:, 0] = 4.0 + 50.0 * rng.random(len(types))
        regions = 2
        image = np.concatenate([_rectangles(truth), 600.0 * rng.random((regions, 4))])
        image[-regions:, 2:] = image[-regions:, :2] + 150.0 * rng.random((regions, 2))
        n = len(types) + regions
        occlusion = np.floor(4 * rng.random(n)).astype(np.int64)
        occlusion[rng.random(n) < 0.5] = 0
        truncation = np.where(rng.random(n) < 0.7, 0.0, rng.random(n))
        copies = np.flatnonzero(rng.random(2 * len(types)) < 0.6) % len(types)
        boxes, quality = _perturbed(rng, truth[copies], 0.35)
        false_positives = _random_boxes(rng, np.tile([3.9, 1.6, 1.5], (6, 1)), 25.0)
        false_positives[:, 0] = 4.0 + 50.0 * rng.random(6)
        boxes = np.concatenate([boxes, false_positives])
        classes = [types[k] for k in copies] + ["Car"] * 3 + ["Pedestrian"] * 3
        all_types = list(KITTI_SIZES)
        classes = [all_types[int(6 * rng.random())] if rng.random() < 0.05 else c for c in classes]
        scores = np.round(np.concatenate([quality, 0.5 * rng.random(6)]), 3)
        detections = KittiObjects(tuple(classes), boxes, _rectangles(boxes), scores)
        label_boxes = np.concatenate([truth, np.tile([-1000.0, -1000, -1000, 1, 1, 1, 0], (2, 1))])
        labels = KittiObjects(
            (*types, *[DONT_CARE] * regions),
            label_boxes,
            image,
            occlusion=occlusion,
            truncation=truncation,
        )
        result.append(KittiFrame(detections, labels))
    return result


def _random_boxes(
    rng: np.random.Generator, sizes: NDArray[np.float64], extent: float
) -> NDArray[np.float64]:
    """Boxes (N, 7) at random positions up to `extent` metres from the origin in x and y."""
    n = len(sizes)
    boxes = np.empty((n, 7))
    boxes[:, :2] = 2 * extent * (rng.random((n, 2)) - 0.5)
    boxes[:, 3:6] = sizes * (0.85 + 0.3 * rng.random((n, 3)))
    boxes[:, 2] = boxes[:, 5] / 2 + 0.2 * rng.random(n)
    boxes[:, 6] = 2 * np.pi * (rng.random(n) - 0.5)
    return boxes


def _perturbed(
    rng: np.random.Generator, boxes: NDArray[np.float64], metres: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (N, 7) with noise of up to `metres`, and scores (N,) that decrease with the noise."""
    n = len(boxes)
    noise = rng.random(n) ** 2
    result = boxes.copy()
    result[:, :3] += 2 * metres * noise[:, None] * (rng.random((n, 3)) - 0.5)
    result[:, 3:6] *= 1.0 + 0.5 * noise[:, None] * (rng.random((n, 3)) - 0.5)
    result[:, 6] += 2.0 * noise * (rng.random(n) - 0.5)
    return result, np.clip(0.9 - 0.5 * noise + 0.4 * (rng.random(n) - 0.5), 0.01, 1.0)


def _rectangles(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Approximate image rectangles (N, 4) of boxes (N, 7) for a camera of 720 pixels focal length."""
    depth = np.maximum(boxes[:, 0], 1.0)
    u, v = 600 - 720 * boxes[:, 1] / depth, 180 - 720 * (boxes[:, 2] - 1.65) / depth
    half_width, half_height = 720 * boxes[:, 3] / depth / 2, 720 * boxes[:, 5] / depth / 2
    return np.column_stack([u - half_width, v - half_height, u + half_width, v + half_height])


def _boxes(
    index: int,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[Any],
    names: tuple[str, ...],
    velocities: NDArray[np.float64],
) -> Boxes3D:
    return Boxes3D(
        index,
        "base_link",
        boxes.astype(np.float32),
        scores.astype(np.float32),
        labels.astype(np.int64),
        names,
        velocities.astype(np.float32),
    )


def flat_nuscenes_metrics(frames: list[ScoredFrame]) -> dict[str, float]:
    """Metrics of this package under the devkit's protocol, with flat keys."""
    figures = nuscenes_metrics(frames, NuScenesProtocol(RANGES, {}, fill_missing=True))
    numbers = {"map": figures["map"], "nds": figures["nds"]}
    numbers |= {e: figures[e] for e in ERRORS}
    for name, values in figures["by_class"].items():
        numbers |= {f"{name}.ap_{d}": ap for d, ap in values["ap_at"].items()}
        numbers |= {f"{name}.{e}": values[e] for e in ERRORS}
    return numbers


def flat_kitti_metrics(frames: list[KittiFrame]) -> dict[str, float]:
    """AP R40 of this package, with flat keys."""
    figures = kitti_metrics(frames)
    return {
        f"{metric}.{name}.{difficulty}": ap
        for metric in ("image", "bev", "3d")
        for name, levels in figures[metric].items()
        for difficulty, ap in levels.items()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference-python",
        type=Path,
        required=True,
        help="Python interpreter with nuscenes-devkit, numba and shapely",
    )
    parser.add_argument(
        "--kitti-evaluator", type=Path, help="eval.py of a KITTI evaluator with AP R40"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    print_report("evaluators", measure(args), args.json)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Largest difference to each public evaluator, and the time of both. Raises UserError."""
    result: dict[str, Any] = {}
    for seed, without in ((1, ()), (2, ("trailer", "bus"))):
        frames = nuscenes_frames(seed, without=without)
        rows = [_nuscenes_json(f) for f in frames]
        result[f"nuscenes seed {seed}"] = _compare(args, "nuscenes", rows, frames)
    if args.kitti_evaluator is not None:
        for seed in (1, 2):
            kitti = kitti_frames(seed)
            rows = [_kitti_json(f) for f in kitti]
            result[f"kitti seed {seed}"] = _compare(args, "kitti", rows, kitti)
    return result


def _compare(args: argparse.Namespace, name: str, rows: list[Any], frames: list[Any]) -> Any:
    compute = flat_nuscenes_metrics if name == "nuscenes" else flat_kitti_metrics
    compute(frames[:1])  # compiles
    start = perf_counter()
    ours = compute(frames)
    seconds = perf_counter() - start
    request = {"frames": rows, "ranges": RANGES}
    theirs = run_reference(args.reference_python, name, request, args.kitti_evaluator)
    reference_seconds = theirs.pop("seconds")
    if ours.keys() != theirs.keys():
        raise UserError(
            f"--reference-python: the metrics differ: {sorted(theirs.keys() ^ ours.keys())}"
        )
    differences = [abs(ours[k] - theirs[k]) for k in ours if not np.isnan(ours[k])]
    result = {
        "metrics": len(differences),
        "largest_difference": max(differences),
        "mean_metric": float(np.mean([ours[k] for k in ours if not np.isnan(ours[k])])),
        "seconds": seconds,
    }
    if name == "nuscenes":
        result |= {
            "reference_seconds": reference_seconds,
            "times_faster": reference_seconds / seconds,
        }
    return result


def run_reference(
    python: Path, name: str, request: dict[str, Any], kitti_evaluator: Path | None
) -> dict[str, float]:
    """Metrics that a public evaluator computes. Raises UserError if it fails.

    python: interpreter that runs it. name: "nuscenes" or "kitti".
    """
    with tempfile.TemporaryDirectory() as folder:
        request_path, result_path = Path(folder) / "request.json", Path(folder) / "result.json"
        request_path.write_text(json.dumps(request))
        script = Path(__file__).with_name("reference_evaluators.py")
        command = [str(python), str(script), name, str(request_path), str(result_path)]
        command += [] if kitti_evaluator is None else [str(kitti_evaluator)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise UserError(f"--reference-python {python}: {error.strerror or error}") from error
        if done.returncode:
            reason = done.stderr[-2000:] or f"exit code {done.returncode}"
            raise UserError(f"--reference-python {python}: {reason}")
        return dict(json.loads(result_path.read_text()))


def _nuscenes_json(frame: ScoredFrame) -> dict[str, Any]:
    def rows(boxes: Boxes3D, attributes: NDArray[np.int64] | None) -> list[dict[str, Any]]:
        assert boxes.velocities is not None and attributes is not None
        return [
            {
                "box": [float(v) for v in boxes.boxes[i]],
                "score": float(boxes.scores[i]),
                "name": boxes.class_names[boxes.labels[i]],
                "velocity": [float(v) for v in boxes.velocities[i]],
                "attribute": int(attributes[i]),
            }
            for i in range(len(boxes))
        ]

    return {
        "labels": rows(frame.truth, frame.true_attributes),
        "detections": rows(frame.predicted, frame.attributes),
    }


def _kitti_json(frame: KittiFrame) -> dict[str, Any]:
    def columns_of(objects: KittiObjects) -> dict[str, Any]:
        columns = {"scores": objects.scores, "occlusion": objects.occlusion}
        columns |= {"truncation": objects.truncation, "boxes": objects.boxes}
        columns["image_boxes"] = objects.image_boxes
        lists = {name: values.tolist() for name, values in columns.items() if values is not None}
        return {"types": list(objects.types), **lists}

    return {"labels": columns_of(frame.truth), "detections": columns_of(frame.detections)}
