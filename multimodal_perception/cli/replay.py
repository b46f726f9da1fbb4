"""Play recorded data over DDS into perception_node and measure its latency.

The command starts its own node, unless --external selects one that is already running.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from multimodal_perception.cli.recordings import add_recording_arguments, open_recording
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.rig import load_rig, resolve_rig_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recording_arguments(parser)
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second [Hz]")
    parser.add_argument("--loops", type=int, default=1, help="number of repetitions")
    parser.add_argument("--parameters", type=Path, help="ROS parameter file of the node")
    parser.add_argument(
        "--external", action="store_true", help="use a node that is already running"
    )
    parser.add_argument("--json", type=Path, help="write the result to this file")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.ros import node_process, replay
    from multimodal_perception.ros.replay_statistics import summarise

    rig = None if args.rig is None else load_rig(resolve_rig_path(args.rig))
    dataset = open_recording(args.path, args.dataset, rig)
    node = (
        nullcontext()
        if args.external
        else node_process.perception_process(dataset.rig, args.parameters)
    )
    with node as process, tqdm(total=args.loops * len(dataset), unit="frame") as bar:
        replayed = replay.play(
            dataset, args.rate, args.loops, on_frame=lambda _: bar.update(), process=process
        )
    result = summarise(replayed)
    table = Table(title=f"{dataset.name} at {args.rate:g} Hz")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_row("frames sent / results received", f"{result['sent']} / {result['received']}")
    if busy := result["node_counts"].get("frames_dropped_busy"):
        table.add_row("frames dropped because the node was busy", str(busy))
    for sensor, count in result["missing_sensors"].items():
        table.add_row(f"results without {sensor}", str(count))
    for name in ("latency_ms", "overhead_ms"):
        values = result[name]
        table.add_row(f"{name} p50 / p95", f"{values['p50']:.1f} / {values['p95']:.1f}")
    Console().print(table)
    print(
        "overhead_ms is the latency without the time of the pipeline: transport over DDS in both "
        "directions, decoding, synchronization and encoding"
    )
    if args.json is not None:
        write_json(args.json, {**result, "rate_hz": args.rate, "dataset": dataset.name})
    return 0 if result["received"] else 1
