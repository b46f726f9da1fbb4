"""Demonstration: data to a bag, the bag over DDS into the node, the results to images."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.open_dataset import PATH_HELP, open_dataset
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.visualization.sheet import draw_sheet, save_png
from multimodal_perception.visualization.truth_view import HasGroundTruth, draw_truth

# Sample data next to a checkout of the project.
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "kitti" / "training"
# Used without sample data: cameras, LiDAR, thermal camera and ultrasonic sensors.
DRIVE = "simulated:urban_street,seed=3,frames=10"
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

    if not (args.rate > 0 and args.loops > 0):
        raise UserError("--rate and --loops must be above 0")
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
            replayed = replay.play(bag, args.rate, args.loops, process=process)
        results, summary = replayed.results, replay.summarise(replayed)
        shutil.rmtree(args.out, ignore_errors=True)
        table = Table(title=f"{len(results)} frames through DDS and perception_node")
        for column in ("frame", "points", "boxes", "missing sensors", "latency ms", "image"):
            table.add_column(column, justify="right")
        # Show the complete result with the lowest latency of each frame; without a complete one, the
        # incomplete result with the lowest latency, and the table names its missing sensors.
        by_latency = sorted(
            (r for r in results if r.received_s is not None),
            key=lambda r: (not r.missing, r.published_s - (r.received_s or 0.0)),
        )
        for index, shown in sorted({r.index: r for r in by_latency}.items()):
            frame, boxes = bag[index], shown.boxes()
            image = args.out / f"frame_{index:02d}.png"
            title = f"{dataset.name}, frame {index}, as received over ROS 2"
            sheet = draw_sheet(frame, boxes, shown.grid(), title)
            if isinstance(dataset, HasGroundTruth):
                sheet = np.concatenate([sheet, draw_truth(dataset.truth(index))])
            save_png(image, sheet)
            latency = 1e3 * ((shown.received_s or 0.0) - shown.published_s)
            points = sum(len(s.points) for s in frame.lidars.values())
            row = index, f"{points:,}", len(boxes), shown.missing, f"{latency:.1f}", image
            table.add_row(*map(str, row))
    console.print(table)
    latency_ms = summary["latency_ms"]
    console.print(
        f"sent {summary['sent']}, received {summary['received']}; "
        f"latency p50 {latency_ms['p50']:.1f} ms, p95 {latency_ms['p95']:.1f} ms"
    )
    write_json(args.out / "demo.json", summary)
    # On a busy machine a best-effort message may be lost, or the node may drop a late frame.
    return 0 if summary["received"] >= MIN_RECEIVED * summary["sent"] else 1
