"""Asks the public evaluators, under an interpreter that has them; evaluators.py starts it.

Usage: evaluator_peers.py nuscenes|kitti QUESTION.json ANSWER.json [EVAL.PY]
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

CONE = {"cone": "traffic_cone"}
ERRORS = {"trans_err": "ate", "scale_err": "ase", "orient_err": "aoe", "vel_err": "ave"}
ERRORS["attr_err"] = "aae"
CLASSES = {"Car": 0, "Pedestrian": 1, "Cyclist": 2}


def ask_nuscenes(told: dict[str, Any]) -> dict[str, float]:
    """Figures of nuscenes-devkit, flat, by our names."""
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
            detection_name=CONE.get(row["name"], row["name"]),
            detection_score=row["score"],
            attribute_name="" if row["attribute"] < 0 else ATTRIBUTE_NAMES[row["attribute"]],
        )

    config = config_factory("detection_cvpr_2019")
    sides = {}
    for side in ("truth", "found"):
        sides[side] = EvalBoxes()
        for index, frame in enumerate(told["frames"]):
            boxes = [box(row, str(index)) for row in frame[side]]
            near = [b for b in boxes if b.ego_dist < config.class_range[b.detection_name]]
            sides[side].add_boxes(str(index), near)
    start = perf_counter()
    metrics = DetectionMetrics(config)
    answer: dict[str, float] = {}
    for ours in told["ranges"]:
        name = CONE.get(ours, ours)
        for distance in config.dist_ths:
            data = accumulate(
                sides["truth"], sides["found"], name, config.dist_fcn_callable, distance
            )
            ap = calc_ap(data, config.min_recall, config.min_precision)
            metrics.add_label_ap(name, distance, ap)
            answer[f"{ours}.ap_{distance:g}"] = ap
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
                    answer[f"{ours}.{ERRORS[metric]}"] = error
    answer["seconds"] = perf_counter() - start
    answer |= {ours: metrics.tp_errors[theirs] for theirs, ours in ERRORS.items()}
    return {**answer, "map": metrics.mean_ap, "nds": metrics.nd_score}


def ask_kitti(told: dict[str, Any], path: Path) -> dict[str, float]:
    """AP R40 of an eval.py, flat, by our names."""
    module = load_kitti(path)
    truth = [annotations(f["truth"]) for f in told["frames"]]
    found = [annotations(f["found"]) for f in told["frames"]]
    overlaps = np.tile([0.7, 0.5, 0.5], (1, 3, 1))
    module.do_eval(truth, found, list(CLASSES.values()), overlaps)  # compiles
    start = perf_counter()
    all_ap = module.do_eval(truth, found, list(CLASSES.values()), overlaps)
    answer = {"seconds": perf_counter() - start}
    for metric, ap in zip(("image", "bev", "3d"), all_ap[4:7], strict=True):
        for name, k in CLASSES.items():
            for level, difficulty in enumerate(("easy", "moderate", "hard")):
                answer[f"{metric}.{name}.{difficulty}"] = float(ap[k, level, 0])
    return answer


def annotations(told: dict[str, Any]) -> dict[str, np.ndarray]:
    """An annotation of KITTI's camera frame: x right, y down, z forward, the box's place its bottom."""
    n = len(told["types"])
    boxes = np.array(told["boxes"], np.float64).reshape(-1, 7)
    return {
        "name": np.array(told["types"], np.str_),
        "bbox": np.array(told["image_boxes"], np.float64).reshape(-1, 4),
        "location": np.column_stack([-boxes[:, 1], -(boxes[:, 2] - boxes[:, 5] / 2), boxes[:, 0]]),
        "dimensions": boxes[:, [3, 5, 4]],
        "rotation_y": -boxes[:, 6] - np.pi / 2,
        "alpha": np.full(n, -10.0),
        "occluded": np.array(told.get("occlusion", np.zeros(n))),
        "truncated": np.array(told.get("truncation", np.zeros(n))),
        "score": np.array(told.get("scores", np.zeros(n)), np.float64),
    }


def load_kitti(path: Path) -> Any:
    """The evaluator, its overlap of turned rectangles on a GPU replaced by shapely's."""
    package = types.ModuleType("peer")
    package.__path__ = []
    overlap = types.ModuleType("peer.rotate_iou")
    overlap.rotate_iou_gpu_eval = turned_overlap  # type: ignore[attr-defined]
    sys.modules |= {"peer": package, "peer.rotate_iou": overlap}
    spec = importlib.util.spec_from_file_location("peer.eval", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer.eval"] = module
    spec.loader.exec_module(module)
    return module


def turned_overlap(a: np.ndarray, b: np.ndarray, criterion: int = -1) -> np.ndarray:
    """Overlap (N, M) of rectangles x z length width angle: -1 over the union, 2 the area."""
    from shapely import STRtree
    from shapely.affinity import rotate, translate
    from shapely.geometry import box

    def shape(r: np.ndarray) -> Any:
        plain = box(-r[2] / 2, -r[3] / 2, r[2] / 2, r[3] / 2)
        return translate(rotate(plain, -r[4], origin=(0, 0), use_radians=True), r[0], r[1])

    first, second = [shape(r) for r in a], [shape(r) for r in b]
    result = np.zeros((len(a), len(b)))
    for i, k in STRtree(second).query(first).T:
        common = first[i].intersection(second[k]).area
        whole = first[i].area + second[k].area - common if criterion == -1 else 1.0
        result[i, k] = common / whole
    return result


def main() -> None:
    what, question, answer = sys.argv[1:4]
    told = json.loads(Path(question).read_text())
    figures = ask_nuscenes(told) if what == "nuscenes" else ask_kitti(told, Path(sys.argv[4]))
    Path(answer).write_text(json.dumps({k: float(v) for k, v in figures.items()}))


if __name__ == "__main__":
    main()
