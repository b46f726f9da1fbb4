"""How well drift is found: known shifts of real image pairs, known turns of real and simulated rigs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multimodal_perception.calibration_monitor.drift_estimation import (
    Fit,
    fit_motion,
    similarity_grid,
    similarity_moves,
)
from multimodal_perception.calibration_monitor.edge_matching import match_blocks, structure
from multimodal_perception.calibration_monitor.monitor import WatchConfig, judge
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, look, pairs_of
from multimodal_perception.datasets.visible_thermal_pairs import ImagePair, read_pair
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level

LARGEST_SHIFT, LARGEST_TURN = 20.0, np.radians(2.0)
# Blocks of image pairs, pixels; the reach is what the largest shift and turn take at a corner.
STEP, REACH = 48, 32
# Turns that must be noticed, and jitter that must not be, degrees.
TURNS, JITTER = (0.5, 2.0), 0.05


def shifted(
    pair: ImagePair, motion: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The thermal image (H, W) of a pair moved by x, y, angle, and which pixels it then has."""
    height, width = pair.thermal.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    c, s = np.cos(motion[2]), np.sin(motion[2])
    turn = np.array([[c, -s], [s, c]])
    matrix = np.column_stack([turn, centre + motion[:2] - turn @ centre])
    image = cv2.warpAffine(pair.thermal, matrix, (width, height))
    whole = np.full((height, width), 255, np.uint8)
    return image, cv2.warpAffine(whole, matrix, (width, height), flags=cv2.INTER_LINEAR) == 255


def register(
    visible: NDArray[np.uint8], thermal: NDArray[np.uint8], seen: NDArray[np.bool_] | None = None
) -> Fit | None:
    """Shift x, y (pixels) and angle (radians) from a visible image (H, W) to a thermal one of its size,
    about the middle; seen: (H, W), the pixels that the thermal one has. None where nothing fits."""
    height, width = visible.shape
    blocks = match_blocks(structure(visible), structure(thermal, seen), step=STEP, reach=REACH)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    grid = similarity_grid(LARGEST_SHIFT + 1, float(np.hypot(*centre)))
    return fit_motion(blocks, similarity_moves(blocks.centres, centre), grid)


def mean_displacement(
    first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, int]
) -> float:
    """Mean distance in pixels, over a grid on an image (H, W), of where two similarities put a point."""
    height, width = shape
    grid = np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 7))
    points = np.stack(grid, -1).reshape(-1, 2)
    moves = similarity_moves(points, np.array([(width - 1) / 2, (height - 1) / 2]))
    one, other = moves(np.stack([first, second]))
    return float(np.linalg.norm(one - other, axis=1).mean())


def score_pairs(root: str | Path, stems: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """Figures of known random shifts and turns of aligned pairs. Raises UserError for a bad file.

    error_px: mean displacement of an image's points between the motion found and the true one.
    repeat_px: between the motion found and the true one on top of what is found in the pair as it is,
    as published pairs are themselves some pixels off.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for stem in stems:
        pair = read_pair(root, stem)
        azimuth, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, LARGEST_SHIFT)
        angle = rng.uniform(-LARGEST_TURN, LARGEST_TURN)
        motion = np.array([length * np.cos(azimuth), length * np.sin(azimuth), angle])
        found = register(pair.grey, *shifted(pair, motion))
        still = register(pair.grey, pair.thermal)
        shape = pair.thermal.shape
        row: dict[str, Any] = {"stem": stem, "motion": motion.tolist(), "error_px": None}
        if found is not None:
            row["error_px"] = mean_displacement(found.values, motion, shape)
            row["sd"] = np.sqrt(np.diag(found.covariance)).tolist()
            row["support"], row["distinct"] = found.support, found.distinct
            row["shift_error_px"] = float(np.linalg.norm((found.values - motion)[:2]))
            row["angle_error_deg"] = float(np.degrees(abs(found.values[2] - angle)))
            if still is not None:
                both = motion + still.values
                row["repeat_px"] = mean_displacement(found.values, both, shape)
        rows.append(row)
    errors = np.array([np.inf if r["error_px"] is None else r["error_px"] for r in rows])
    repeats = np.array([r.get("repeat_px", np.inf) for r in rows])
    return {
        "pairs": len(rows),
        "median_error_px": float(np.median(errors)),
        "p90_error_px": float(np.percentile(errors, 90)),
        "share_within_2_px": float((errors <= 2).mean()),
        "median_repeat_px": float(np.median(repeats)),
        "median_shift_error_px": _median(rows, "shift_error_px"),
        "median_angle_error_deg": _median(rows, "angle_error_deg"),
        "rows": rows,
    }


def misplaced(frame: SensorFrame, sensor: str, turn: NDArray[np.float64]) -> SensorFrame:
    """The frame with a calibration that is wrong: everything is seen turned by `turn` (pairs.Look)."""
    back = np.eye(4)
    back[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    poses = {**frame.base_from_sensor, sensor: frame.base_from_sensor[sensor] @ back}
    return replace(frame, base_from_sensor=poses)


@dataclass(frozen=True)
class Trial:
    """One frame's verdict on one wrong calibration. applied, error: degrees; error is what is left."""

    frame: str
    pair: Pair
    applied: float
    error: float
    alarm: bool


def turn_trials(
    frames: Iterable[tuple[str, SensorFrame]],
    turns: int,
    still: int,
    config: WatchConfig | None = None,
    seed: int = 0,
) -> Iterator[Trial]:
    """Of each frame and pair: as it is, `still` jitters up to 0.05 degrees, `turns` turns of 0.5 to 2
    degrees about random axes; each judged from this one frame alone."""
    rng = np.random.default_rng(seed)
    for name, frame in frames:
        for pair in pairs_of(frame):
            sizes = [0.0, *rng.uniform(0, JITTER, still), *rng.uniform(*TURNS, turns)]
            for size in sizes:
                axis = rng.normal(size=3)
                turn = np.radians(size) * axis / np.linalg.norm(axis)
                seen = look(misplaced(frame, pair.sensor, turn), pair)
                drift = None if seen is None else judge([seen], config)
                left = np.nan
                if drift is not None:
                    back = Rotation.from_rotvec(drift.turn) * Rotation.from_rotvec(turn).inv()
                    left = float(np.degrees(back.magnitude()))
                alarm = drift is not None and drift.level is not Level.OK
                yield Trial(name, pair, size, left, alarm)


def drift_figures(trials: Iterable[Trial]) -> dict[str, Any]:
    """By kind of pair and sensor: share of drifts noticed, of false alarms, and the angle's error."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(str(trial.pair), []).append(trial)
    result = {}
    for name, group in groups.items():
        drifted = [t for t in group if t.applied > JITTER]
        quiet = [t for t in group if t.applied <= JITTER]
        errors = np.array([t.error for t in group if np.isfinite(t.error)])
        result[name] = {
            "frames": len({t.frame for t in group}),
            "turns": len(drifted),
            "noticed": float(np.mean([t.alarm for t in drifted])) if drifted else None,
            "still": len(quiet),
            "false_alarms": float(np.mean([t.alarm for t in quiet])) if quiet else None,
            "not_judged": float(np.mean([not np.isfinite(t.error) for t in group])),
            "median_error_deg": float(np.median(errors)) if errors.size else None,
            "p90_error_deg": float(np.percentile(errors, 90)) if errors.size else None,
        }
    return result


def _median(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [r[key] for r in rows if key in r]
    return float(np.median(values)) if values else None
