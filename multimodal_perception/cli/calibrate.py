"""Estimates the drift of the extrinsics on recorded data, and writes a corrected rig."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.calibration_monitor.correction import corrected_poses, corrected_rig
from multimodal_perception.calibration_monitor.monitor import (
    CalibrationMonitorConfig,
    Drift,
    estimate_drift,
)
from multimodal_perception.calibration_monitor.sensor_pairs import (
    Pair,
    RotationMeasurement,
    find_pairs,
    measure_rotation_error,
)
from multimodal_perception.cli.recordings import (
    add_recording_arguments,
    open_recording,
    print_notes,
)
from multimodal_perception.configuration import UserError, load
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level
from multimodal_perception.rig import dump_rig, load_rig, resolve_rig_path
from multimodal_perception.visualization.calibration_view import draw_drift
from multimodal_perception.visualization.sheet import save_png

NOT_MEASURED = "too few edges in common to measure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recording_arguments(parser)
    parser.add_argument(
        "--frames",
        type=int,
        default=12,
        help="number of evaluated frames, evenly spaced (default: 12)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with the keys below `calibration_monitor:` of config/perception.yaml",
    )
    parser.add_argument(
        "--picture", type=Path, help="image file to write (default: out/calibration_NAME.png)"
    )
    parser.add_argument("--out", type=Path, help="rig file to write, with corrected extrinsics")
    parser.add_argument("--json", type=Path, help="JSON file to write the results to")


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.frames <= 10_000:
        raise UserError(f"--frames: allowed: 1 to 10000; got {args.frames}")
    config = (
        CalibrationMonitorConfig()
        if args.config is None
        else load(CalibrationMonitorConfig, args.config)
    )
    rig = None if args.rig is None else load_rig(resolve_rig_path(args.rig))
    dataset = open_recording(args.path, args.dataset, rig)
    count = min(args.frames, len(dataset))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    measurements: dict[Pair, list[RotationMeasurement]] = {}
    frame = last = None
    for index in tqdm(chosen, unit="frame"):
        frame = dataset[int(index)]
        for pair in find_pairs(frame):
            last = frame
            measurement = measure_rotation_error(frame, pair)
            measurements.setdefault(pair, []).extend([] if measurement is None else [measurement])
    print_notes(dataset)
    if last is None:
        raise UserError(f"{args.path}: {_reason_without_pairs(frame)}")
    drifts = {pair: estimate_drift(values, config) for pair, values in measurements.items()}
    _print(drifts)
    estimated = {pair: drift for pair, drift in drifts.items() if drift is not None}
    sheet = np.concatenate([draw_drift(last, pair, drifts[pair]) for pair in find_pairs(last)])
    picture = args.picture or Path("out") / f"calibration_{Path(str(args.path)).name or 'bag'}.png"
    save_png(picture, sheet)
    print(f"image: {picture}")
    if args.json is not None:
        write_json(args.json, {str(p): _to_json(d) for p, d in drifts.items()})
    corrected = corrected_poses(estimated, last.base_from_sensor)
    if not corrected:
        print("no correction needed")
        return 0
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            dump_rig(corrected_rig(dataset.rig, corrected, last.camera_from_optical)),
            encoding="utf-8",
        )
        print(f"{args.out}: corrected extrinsics of {', '.join(corrected)}; check it before use")
    else:
        print(f"--out FILE writes a rig with corrected extrinsics of {', '.join(corrected)}")
    return 1


def _reason_without_pairs(frame: SensorFrame | None) -> str:
    if frame is None:
        return "contains no frames"
    if frame.cameras and any(s.time_offsets is not None for s in frame.lidars.values()):
        return "sweeps cannot be deskewed without odometry, so they cannot be compared with images"
    return (
        "no camera with a LiDAR and no thermal camera with a camera, with intrinsics and extrinsics"
    )


def _print(drifts: Mapping[Pair, Drift | None]) -> None:
    table = Table(title="drift of the extrinsics (± one standard deviation)")
    columns = ("pair", "shift, px", "rotation about x, y, z, deg", "translation x, y, z, cm")
    for name in (*columns, "measurements", "result"):
        table.add_column(name, overflow="fold")
    for pair, drift in drifts.items():
        if drift is None:
            table.add_row(str(pair), "-", "-", "-", "0", NOT_MEASURED)
            continue
        sd = np.degrees(np.sqrt(np.diag(drift.covariance)))
        shift = _with_sd(drift.shift, drift.shift_sd, 1)
        rotation = _with_sd(np.degrees(drift.rotation), sd, 2)
        result = "ok" if drift.level is Level.OK else f"{drift.level.name}: {drift.message}"
        translation, error = "-", drift.pose_error
        if error is not None:
            deviations = np.sqrt(np.diag(error.covariance)[3:])
            translation = _with_sd(100 * error.translation, 100 * deviations, 1)
        table.add_row(str(pair), shift, rotation, translation, str(drift.measurements), result)
    Console().print(table)


def _with_sd(values: Any, deviations: Any, digits: int) -> str:
    def parts() -> Iterator[str]:
        for value, deviation in zip(values, deviations, strict=True):
            yield f"{value:+.{digits}f}±{deviation:.{digits}f}"

    return " ".join(parts())


def _to_json(drift: Drift | None) -> dict[str, Any]:
    if drift is None:
        return {"measurements": 0, "result": NOT_MEASURED}
    return {
        "shift_px": drift.shift.tolist(),
        "shift_sd_px": drift.shift_sd.tolist(),
        "rotation_deg": np.degrees(drift.rotation).tolist(),
        "rotation_sd_deg": np.degrees(np.sqrt(np.diag(drift.covariance))).tolist(),
        "angle_deg": drift.degrees,
        "angle_sd_deg": drift.degrees_sd,
        "significance": drift.significance,
        "measurements": drift.measurements,
        "result": drift.level.name,
        **_translation(drift),
    }


def _translation(drift: Drift) -> dict[str, Any]:
    if drift.pose_error is None:
        return {}
    error = drift.pose_error
    return {
        "translation_m": error.translation.tolist(),
        "translation_sd_m": np.sqrt(np.diag(error.covariance)[3:]).tolist(),
        "translation_significance": error.translation_significance,
    }
