"""Demonstration: data to a bag, the bag over DDS into the node, the results to images."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.open_dataset import PATH_HELP, open_dataset
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.visualization.sheet import draw_sheet, save_png
from multimodal_perception.visualization.truth_view import HasGroundTruth, draw_truth

# Sample data next to a checkout of the project.
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "kitti" / "training"
# Used without sample data: cameras, LiDAR, thermal camera and ultrasonic sensors.
DRIVE = "simulated:urban_street,seed=3,frames=10"
FIRST_START_S = 300.0
# Fraction of frames whose results must be received.
MIN_RECEIVED = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", help=f"{PATH_HELP}; default: the KITTI sample if present, else {DRIVE}"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="output folder; existing content is deleted",
    )
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second [Hz]")
    parser.add_argument("--loops", type=int, default=5, help="number of repetitions")
    parser.add_argument(
        "--detector", default="fusion", help="parameter pipeline.detector of the node"
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.ros import node_process, replay
    from multimodal_perception.ros.replay_statistics import summarise

    data = args.data or (str(SAMPLE) if SAMPLE.is_dir() else DRIVE)
    dataset = open_dataset(data)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        counts = write_bag(dataset, dataset.rig, path)
        console.print(f"{dataset.name}: {sum(counts.values())} messages on {len(counts)} topics")
        bag = open_dataset(path, "bag", dataset.rig)
        settings = {"pipeline.detector": args.detector}
        with node_process.perception_process(bag.rig, settings=settings) as process:
            # At its first start on a computer, the node measures the inference engines.
            replayed = replay.play(bag, args.rate, args.loops, FIRST_START_S, process=process)
        summary = summarise(replayed)
        shutil.rmtree(args.out, ignore_errors=True)
        table = Table(title=f"{summary['sent']} frames through DDS and perception_node")
        for column in ("frame", "sensors", "points", "boxes", "missing", "latency ms", "image"):
            table.add_column(column, justify="right")
        # Of each frame the complete result with the lowest latency; without a complete one, an
        # incomplete one. Its picture shows the readings that the node used.
        for shown in replayed.results:
            index, boxes = shown.index, shown.boxes()
            missing = frozenset(filter(None, shown.missing.split(", ")))
            frame = bag[index].without_sensors(missing)
            image = args.out / f"frame_{index:02d}.png"
            title = f"{dataset.name}, frame {index}, as received over ROS 2"
            if missing:
                title += f"; without {shown.missing}"
            sheet = draw_sheet(frame, boxes, shown.grid(), title)
            if isinstance(dataset, HasGroundTruth):
                sheet = np.concatenate([sheet, draw_truth(dataset.truth(index))])
            save_png(image, sheet)
            points = sum(len(s.points) for s in frame.lidars.values())
            sensors = f"{len(frame.present)} of {len(dataset.rig.sensors)}"
            row = index, sensors, f"{points:,}", len(boxes), shown.missing
            table.add_row(*map(str, (*row, f"{shown.latency_ms():.1f}", image)))
    console.print(table)
    latency_ms = summary["latency_ms"]
    console.print(
        f"sent {summary['sent']}, received {summary['received']}; "
        f"latency p50 {latency_ms['p50']:.1f} ms, p95 {latency_ms['p95']:.1f} ms"
    )
    total_ms = summary["stage_ms"].get("total", {}).get("p50", float("nan"))
    console.print(
        f"pipeline p50 {total_ms:.1f} ms per frame: up to {1e3 / total_ms:.1f} frames per second"
    )
    for network, engine in summary["engines"].items():
        console.print(f"{network}: {engine}")
    for sensor, count in summary["missing_sensors"].items():
        console.print(f"{count} of {summary['received']} results without {sensor}")
    write_json(args.out / "demo.json", summary)
    # On a busy machine a best-effort message may be lost, or the node may drop a late frame.
    return 0 if summary["received"] >= MIN_RECEIVED * summary["sent"] else 1
