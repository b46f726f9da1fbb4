"""Runs public evaluators. Started by evaluators.py with a Python interpreter that has them
installed, so it must not import this package.

Usage: reference_evaluators.py nuscenes|kitti REQUEST.json RESULT.json [EVAL.PY]
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

REFERENCE_NAMES = {"cone": "traffic_cone"}
ERRORS = {"trans_err": "ate", "scale_err": "ase", "orient_err": "aoe", "vel_err": "ave"}
ERRORS["attr_err"] = "aae"
CLASSES = {"Car": 0, "Pedestrian": 1, "Cyclist": 2}


def run_nuscenes(request: dict[str, Any]) -> dict[str, float]:
    """Metrics computed by nuscenes-devkit, with this package's names as flat keys."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, TP_METRICS
    from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics
    from pyquaternion import Quaternion

    def box(row: dict[str, Any], token: str) -> Any:
        x, y, z, length, width, height, yaw = row["box"]
        return DetectionBox(
            sample_token=token,
            translation=(x, y, z),
            size=(width, length, height),
            rotation=tuple(Quaternion(axis=(0, 0, 1), radians=yaw)),
            velocity=tuple(row["velocity"]),
            ego_translation=(x, y, z),
            num_pts=1,
            detection_name=REFERENCE_NAMES.get(row["name"], row["name"]),
            detection_score=row["score"],
            attribute_name="" if row["attribute"] < 0 else ATTRIBUTE_NAMES[row["attribute"]],
        )

    config = config_factory("detection_cvpr_2019")
    sides = {}
    for side in ("labels", "detections"):
        sides[side] = EvalBoxes()
        for index, frame in enumerate(request["frames"]):
            boxes = [box(row, str(index)) for row in frame[side]]
            near = [b for b in boxes if b.ego_dist < config.class_range[b.detection_name]]
            sides[side].add_boxes(str(index), near)
    start = perf_counter()
    metrics = DetectionMetrics(config)
    result: dict[str, float] = {}
    for ours in request["ranges"]:
        name = REFERENCE_NAMES.get(ours, ours)
        for distance in config.dist_ths:
            data = accumulate(
                sides["labels"], sides["detections"], name, config.dist_fcn_callable, distance
            )
            ap = calc_ap(data, config.min_recall, config.min_precision)
            metrics.add_label_ap(name, distance, ap)
            result[f"{ours}.ap_{distance:g}"] = ap
            if distance == config.dist_th_tp:
                for metric in TP_METRICS:
                    undefined = {
                        "traffic_cone": ("attr_err", "vel_err", "orient_err"),
                        "barrier": ("attr_err", "vel_err"),
                    }.get(name, ())
                    error = np.nan
                    if metric not in undefined:
                        error = calc_tp(data, config.min_recall, metric)
                    metrics.add_label_tp(name, metric, error)
                    result[f"{ours}.{ERRORS[metric]}"] = error
    result["seconds"] = perf_counter() - start
    result |= {ours: metrics.tp_errors[theirs] for theirs, ours in ERRORS.items()}
    return {**result, "map": metrics.mean_ap, "nds": metrics.nd_score}


def run_kitti(request: dict[str, Any], path: Path) -> dict[str, float]:
    """AP R40 computed by an eval.py, with this package's names as flat keys."""
    module = load_kitti(path)
    labels = [kitti_annotations(f["labels"]) for f in request["frames"]]
    detections = [kitti_annotations(f["detections"]) for f in request["frames"]]
    overlaps = np.tile([0.7, 0.5, 0.5], (1, 3, 1))
    module.do_eval(labels, detections, list(CLASSES.values()), overlaps)  # compiles
    start = perf_counter()
    all_ap = module.do_eval(labels, detections, list(CLASSES.values()), overlaps)
    result = {"seconds": perf_counter() - start}
    for metric, ap in zip(("image", "bev", "3d"), all_ap[4:7], strict=True):
        for name, k in CLASSES.items():
            for level, difficulty in enumerate(("easy", "moderate", "hard")):
                result[f"{metric}.{name}.{difficulty}"] = float(ap[k, level, 0])
    return result


def kitti_annotations(objects: dict[str, Any]) -> dict[str, np.ndarray]:
    """KITTI annotations in the camera frame: x right, y down, z forward; a box's location is its
    bottom centre."""
    n = len(objects["types"])
    boxes = np.array(objects["boxes"], np.float64).reshape(-1, 7)
    return {
        "name": np.array(objects["types"], np.str_),
        "bbox": np.array(objects["image_boxes"], np.float64).reshape(-1, 4),
        "location": np.column_stack([-boxes[:, 1], -(boxes[:, 2] - boxes[:, 5] / 2), boxes[:, 0]]),
        "dimensions": boxes[:, [3, 5, 4]],
        "rotation_y": -boxes[:, 6] - np.pi / 2,
        "alpha": np.full(n, -10.0),
        "occluded": np.array(objects.get("occlusion", np.zeros(n))),
        "truncated": np.array(objects.get("truncation", np.zeros(n))),
        "score": np.array(objects.get("scores", np.zeros(n)), np.float64),
    }


def load_kitti(path: Path) -> Any:
    """Import the evaluator with its GPU overlap of rotated rectangles replaced by shapely."""
    package = types.ModuleType("reference")
    package.__path__ = []
    overlap = types.ModuleType("reference.rotate_iou")
    overlap.rotate_iou_gpu_eval = rotated_overlap  # type: ignore[attr-defined]
    sys.modules |= {"reference": package, "reference.rotate_iou": overlap}
    spec = importlib.util.spec_from_file_location("reference.eval", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference.eval"] = module
    spec.loader.exec_module(module)
    return module


def rotated_overlap(a: np.ndarray, b: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Overlap (N, M) of rectangles (x, z, length, width, angle).

    criterion: -1 for intersection over union, 2 for the intersection area.
    """
    from shapely import STRtree
    from shapely.affinity import rotate, translate
    from shapely.geometry import box

    def rectangle(r: np.ndarray) -> Any:
        aligned = box(-r[2] / 2, -r[3] / 2, r[2] / 2, r[3] / 2)
        return translate(rotate(aligned, -r[4], origin=(0, 0), use_radians=True), r[0], r[1])

    first, second = [rectangle(r) for r in a], [rectangle(r) for r in b]
    result = np.zeros((len(a), len(b)))
    for i, k in STRtree(second).query(first).T:
        common = first[i].intersection(second[k]).area
        divisor = first[i].area + second[k].area - common if criterion == -1 else 1.0
        result[i, k] = common / divisor
    return result


def main() -> None:
    name, request_path, result_path = sys.argv[1:4]
    request = json.loads(Path(request_path).read_text())
    figures = run_nuscenes(request) if name == "nuscenes" else run_kitti(request, Path(sys.argv[4]))
    Path(result_path).write_text(json.dumps({k: float(v) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
