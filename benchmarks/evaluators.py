"""Our detection metrics beside the public evaluators on the same generated boxes.

The peers run in an interpreter of their own (evaluator_peers.py), which has nuscenes-devkit, numba and
shapely; --kitti names a checkout's eval.py with AP R40, such as OpenPCDet's
(pcdet/datasets/kitti/kitti_object_eval_python/eval.py). Its overlaps, made for a GPU, are shapely's
here, so that its time says nothing and is not told.
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

# nuScenes' ten classes, the cone named as here, with sizes and how many there are in a frame.
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
    """Labels, and boxes that miss, double, blur and mistake them; scores with ties.

    Only uniform numbers are drawn, which numpy keeps the same between its versions.
    """
    rng = np.random.default_rng(seed)
    names = tuple(SIZES)
    result = []
    for index in range(frames):
        labels = np.concatenate(
            [np.full(s[3], k) for k, (n, s) in enumerate(SIZES.items()) if n not in without]
        )
        truth = _placed(rng, np.array([SIZES[names[k]][:3] for k in labels]), 55.0)
        velocity = 10.0 * (rng.random((len(labels), 2)) - 0.5)
        velocity[rng.random(len(labels)) < 0.1] = np.nan
        attributes = np.floor(rng.random(len(labels)) * 4).astype(np.int64) - 1
        attributes[np.isin(labels, [names.index("cone"), names.index("barrier")])] = -1
        copies = np.flatnonzero(rng.random(2 * len(labels)) < 0.55) % len(labels)
        boxes, quality = _blurred(rng, truth[copies], 6.0)
        stray = _placed(rng, np.tile([4.0, 1.8, 1.6], (8, 1)), 55.0)
        boxes = np.concatenate([boxes, stray])
        kinds = np.concatenate([labels[copies], np.floor(rng.random(8) * len(names))])
        mistaken = rng.random(len(kinds)) < 0.08
        kinds[mistaken] = np.floor(rng.random(int(mistaken.sum())) * len(names))
        scores = np.round(np.concatenate([quality, 0.5 * rng.random(8)]), 2)
        speeds = 10.0 * (rng.random((len(kinds), 2)) - 0.5)
        speeds[: len(copies)] = np.nan_to_num(velocity[copies]) + rng.random((len(copies), 2)) - 0.5
        result.append(
            ScoredFrame(
                _boxes(index, boxes, scores, kinds, names, speeds),
                _boxes(index, truth, np.ones(len(labels)), labels, names, velocity),
                attributes,
                np.floor(rng.random(len(kinds)) * 4).astype(np.int64) - 1,
            )
        )
    return result


def kitti_frames(seed: int, frames: int = 60) -> list[KittiFrame]:
    """Labels of all difficulties, DontCare regions, and boxes that miss, double and blur them."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(frames):
        types = [n for n, s in KITTI_SIZES.items() for _ in range(s[3])]
        truth = _placed(rng, np.array([KITTI_SIZES[n][:3] for n in types]), 25.0)
        truth[:, 0] = 4.0 + 50.0 * rng.random(len(types))
        regions = 2
        image = np.concatenate([_rectangles(truth), 600.0 * rng.random((regions, 4))])
        image[-regions:, 2:] = image[-regions:, :2] + 150.0 * rng.random((regions, 2))
        n = len(types) + regions
        occlusion = np.floor(4 * rng.random(n)).astype(np.int64)
        occlusion[rng.random(n) < 0.5] = 0
        truncation = np.where(rng.random(n) < 0.7, 0.0, rng.random(n))
        copies = np.flatnonzero(rng.random(2 * len(types)) < 0.6) % len(types)
        boxes, quality = _blurred(rng, truth[copies], 0.35)
        stray = _placed(rng, np.tile([3.9, 1.6, 1.5], (6, 1)), 25.0)
        stray[:, 0] = 4.0 + 50.0 * rng.random(6)
        boxes = np.concatenate([boxes, stray])
        kinds = [types[k] for k in copies] + ["Car"] * 3 + ["Pedestrian"] * 3
        known = list(KITTI_SIZES)
        kinds = [known[int(6 * rng.random())] if rng.random() < 0.05 else k for k in kinds]
        scores = np.round(np.concatenate([quality, 0.5 * rng.random(6)]), 3)
        found = KittiObjects(tuple(kinds), boxes, _rectangles(boxes), scores)
        everything = np.concatenate([truth, np.tile([-1000.0, -1000, -1000, 1, 1, 1, 0], (2, 1))])
        labels = KittiObjects(
            (*types, *[DONT_CARE] * regions),
            everything,
            image,
            occlusion=occlusion,
            truncation=truncation,
        )
        result.append(KittiFrame(found, labels))
    return result


def _placed(
    rng: np.random.Generator, sizes: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    n = len(sizes)
    boxes = np.empty((n, 7))
    boxes[:, :2] = 2 * reach * (rng.random((n, 2)) - 0.5)
    boxes[:, 3:6] = sizes * (0.85 + 0.3 * rng.random((n, 3)))
    boxes[:, 2] = boxes[:, 5] / 2 + 0.2 * rng.random(n)
    boxes[:, 6] = 2 * np.pi * (rng.random(n) - 0.5)
    return boxes


def _blurred(
    rng: np.random.Generator, boxes: NDArray[np.float64], metres: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes near the given ones, and scores that are higher the nearer, more or less."""
    n = len(boxes)
    blur = rng.random(n) ** 2
    result = boxes.copy()
    result[:, :3] += 2 * metres * blur[:, None] * (rng.random((n, 3)) - 0.5)
    result[:, 3:6] *= 1.0 + 0.5 * blur[:, None] * (rng.random((n, 3)) - 0.5)
    result[:, 6] += 2.0 * blur * (rng.random(n) - 0.5)
    return result, np.clip(0.9 - 0.5 * blur + 0.4 * (rng.random(n) - 0.5), 0.01, 1.0)


def _rectangles(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """About where a camera of 720 pixels focal length sees boxes (N, 7): rectangles (N, 4)."""
    depth = np.maximum(boxes[:, 0], 1.0)
    u, v = 600 - 720 * boxes[:, 1] / depth, 180 - 720 * (boxes[:, 2] - 1.65) / depth
    wide, tall = 720 * boxes[:, 3] / depth / 2, 720 * boxes[:, 5] / depth / 2
    return np.column_stack([u - wide, v - tall, u + wide, v + tall])


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


def nuscenes_numbers(frames: list[ScoredFrame]) -> dict[str, float]:
    """Our figures on the devkit's terms, flat."""
    figures = nuscenes_metrics(frames, NuScenesProtocol(RANGES, {}, fill_absent=True))
    numbers = {"map": figures["map"], "nds": figures["nds"]}
    numbers |= {e: figures[e] for e in ERRORS}
    for name, values in figures["by_class"].items():
        numbers |= {f"{name}.ap_{d}": ap for d, ap in values["ap_at"].items()}
        numbers |= {f"{name}.{e}": values[e] for e in ERRORS}
    return numbers


def kitti_numbers(frames: list[KittiFrame]) -> dict[str, float]:
    """Our AP R40, flat."""
    figures = kitti_metrics(frames)
    return {
        f"{metric}.{name}.{difficulty}": ap
        for metric in ("image", "bev", "3d")
        for name, levels in figures[metric].items()
        for difficulty, ap in levels.items()
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Largest difference to each peer and how long both took."""
    if args.peer is None:
        raise UserError("--peer: a Python interpreter that has nuscenes-devkit")
    result: dict[str, Any] = {}
    for seed, without in ((1, ()), (2, ("trailer", "bus"))):
        frames = nuscenes_frames(seed, without=without)
        told = [_nuscenes_json(f) for f in frames]
        result[f"nuscenes seed {seed}"] = _compare(args, "nuscenes", told, frames)
    if args.kitti is not None:
        for seed in (1, 2):
            frames_k = kitti_frames(seed)
            told = [_kitti_json(f) for f in frames_k]
            result[f"kitti seed {seed}"] = _compare(args, "kitti", told, frames_k)
    return result


def _compare(args: argparse.Namespace, what: str, told: list[Any], frames: list[Any]) -> Any:
    numbers = nuscenes_numbers if what == "nuscenes" else kitti_numbers
    numbers(frames[:1])  # compiles
    start = perf_counter()
    mine = numbers(frames)
    seconds = perf_counter() - start
    theirs = ask_peer(args.peer, what, {"frames": told, "ranges": RANGES}, args.kitti)
    peer_seconds = theirs.pop("seconds")
    if mine.keys() != theirs.keys():
        raise UserError(f"--peer: it tells {sorted(theirs.keys() ^ mine.keys())} apart from ours")
    differences = [abs(mine[k] - theirs[k]) for k in mine if not np.isnan(mine[k])]
    result = {
        "figures": len(differences),
        "largest_difference": max(differences),
        "mean_figure": float(np.mean([mine[k] for k in mine if not np.isnan(mine[k])])),
        "seconds": seconds,
    }
    if what == "nuscenes":
        result |= {"peer_seconds": peer_seconds, "times_faster": peer_seconds / seconds}
    return result


def ask_peer(python: Path, what: str, told: dict[str, Any], kitti: Path | None) -> dict[str, float]:
    """What the peer says of frames. Raises UserError when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "question.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(told))
        script = Path(__file__).with_name("evaluator_peers.py")
        command = [str(python), str(script), what, str(question), str(answer)]
        command += [] if kitti is None else [str(kitti)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise UserError(f"--peer {python}: {error.strerror or error}") from error
        if done.returncode:
            reason = done.stderr[-2000:] or f"it ended with {done.returncode}"
            raise UserError(f"--peer {python}: {reason}")
        return dict(json.loads(answer.read_text()))


def _nuscenes_json(frame: ScoredFrame) -> dict[str, Any]:
    def listed(boxes: Boxes3D, attributes: NDArray[np.int64] | None) -> list[dict[str, Any]]:
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
        "truth": listed(frame.truth, frame.true_attributes),
        "found": listed(frame.predicted, frame.attributes),
    }


def _kitti_json(frame: KittiFrame) -> dict[str, Any]:
    def listed(objects: KittiObjects) -> dict[str, Any]:
        columns = {"scores": objects.scores, "occlusion": objects.occlusion}
        columns |= {"truncation": objects.truncation, "boxes": objects.boxes}
        columns["image_boxes"] = objects.image_boxes
        told = {name: values.tolist() for name, values in columns.items() if values is not None}
        return {"types": list(objects.types), **told}

    return {"truth": listed(frame.truth), "found": listed(frame.found)}
