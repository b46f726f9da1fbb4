"""Calibration held against what the sensors see: drift, its uncertainty, and a corrected rig."""

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
from multimodal_perception.calibration_monitor.monitor import Drift, WatchConfig, judge
from multimodal_perception.calibration_monitor.sensor_pairs import Look, Pair, look, pairs_of
from multimodal_perception.configuration import UserError, load
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP, open_dataset
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level
from multimodal_perception.rig import dump_rig, load_rig, rig_path
from multimodal_perception.visualization.calibration_view import draw_drift
from multimodal_perception.visualization.sheet import save_png


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=("check",))
    parser.add_argument("path", help=PATH_HELP)
    parser.add_argument("--dataset", choices=DATASET_NAMES, help="what lies at PATH")
    parser.add_argument("--rig", help="rig of a bag (else made from its topics) or simulated drive")
    parser.add_argument("--frames", type=int, default=12, help="looked at, evenly spread")
    parser.add_argument("--watch", type=Path, help="YAML file of WatchConfig: thresholds")
    parser.add_argument("--picture", type=Path, help="default: out/calibration_NAME.png")
    parser.add_argument("--out", type=Path, help="rig file to write with corrected extrinsics")
    parser.add_argument("--json", type=Path, help="file for the result")


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.frames <= 10_000:
        raise UserError(f"--frames: allowed: 1 to 10000; got {args.frames}")
    config = WatchConfig() if args.watch is None else load(WatchConfig, args.watch)
    rig = None if args.rig is None else load_rig(rig_path(args.rig))
    dataset = open_dataset(args.path, args.dataset, rig)
    count = min(args.frames, len(dataset))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    looks: dict[Pair, list[Look]] = {}
    frame = last = None
    for index in tqdm(chosen, unit="frame"):
        frame = dataset[int(index)]
        for pair in pairs_of(frame):
            last = frame
            seen = look(frame, pair)
            looks.setdefault(pair, []).extend([] if seen is None else [seen])
    if last is None:
        raise UserError(f"{args.path}: {_why_no_pair(frame)}")
    drifts = {pair: judge(seen, config) for pair, seen in looks.items()}
    _print(drifts)
    found = {pair: drift for pair, drift in drifts.items() if drift is not None}
    sheet = np.concatenate([draw_drift(last, pair, drifts[pair]) for pair in pairs_of(last)])
    picture = args.picture or Path("out") / f"calibration_{Path(str(args.path)).name or 'bag'}.png"
    save_png(picture, sheet)
    print(f"drawn: {picture}")
    if args.json is not None:
        write_json(args.json, {str(p): _figures(d) for p, d in drifts.items()})
    corrected = corrected_poses(found, last.base_from_sensor)
    if not corrected:
        print("nothing to correct")
        return 0
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(dump_rig(corrected_rig(dataset.rig, corrected)), encoding="utf-8")
        print(f"{args.out}: corrected extrinsics of {', '.join(corrected)}; check before use")
    else:
        print(f"--out FILE writes a rig with corrected extrinsics of {', '.join(corrected)}")
    return 1


def _why_no_pair(frame: SensorFrame | None) -> str:
    if frame is None:
        return "no frames"
    if frame.cameras and any(s.time_offsets is not None for s in frame.lidars.values()):
        return "sweeps cannot be compared with images without odometry: they are not deskewed"
    return "no camera with a LiDAR, nor a thermal camera with a camera, with intrinsics and place"


def _print(drifts: Mapping[Pair, Drift | None]) -> None:
    table = Table(title="drift of the calibration, one standard deviation beside it")
    for name in ("pair", "shift, px", "turn about x, y, z, deg", "looks", "verdict"):
        table.add_column(name, overflow="fold")
    for pair, drift in drifts.items():
        if drift is None:
            table.add_row(str(pair), "-", "-", "0", "not seen well enough")
            continue
        sd = np.degrees(np.sqrt(np.diag(drift.covariance)))
        shift = _with_sd(drift.shift, drift.shift_sd, 1)
        turn = _with_sd(np.degrees(drift.turn), sd, 2)
        verdict = "ok" if drift.level is Level.OK else f"{drift.level.name}: {drift.message}"
        table.add_row(str(pair), shift, turn, str(drift.looks), verdict)
    Console().print(table)


def _with_sd(values: Any, deviations: Any, digits: int) -> str:
    def parts() -> Iterator[str]:
        for value, deviation in zip(values, deviations, strict=True):
            yield f"{value:+.{digits}f}±{deviation:.{digits}f}"

    return " ".join(parts())


def _figures(drift: Drift | None) -> dict[str, Any]:
    if drift is None:
        return {"looks": 0, "verdict": "not seen well enough"}
    return {
        "shift_px": drift.shift.tolist(),
        "shift_sd_px": drift.shift_sd.tolist(),
        "turn_deg": np.degrees(drift.turn).tolist(),
        "turn_sd_deg": np.degrees(np.sqrt(np.diag(drift.covariance))).tolist(),
        "angle_deg": drift.degrees,
        "angle_sd_deg": drift.degrees_sd,
        "sureness": drift.sureness,
        "looks": drift.looks,
        "verdict": drift.level.name,
    }
