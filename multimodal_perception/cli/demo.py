"""The main job from end to end, on this machine."""

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
from multimodal_perception.visualization.truth_view import Truthful, draw_truth

# Where the project's sample data lies, beside a checkout.
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "kitti" / "training"
# Without it: cameras, LiDAR, thermal camera and ultrasonics of the proving ground.
DRIVE = "simulated:urban_street,seed=3,frames=10"
# Share of the frames that must be answered.
ANSWERED = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", help=f"{PATH_HELP}; default: the KITTI sample where it is, else {DRIVE}"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--rate", type=float, default=2.0, help="frames a second")
    parser.add_argument("--loops", type=int, default=5)
    parser.add_argument("--detector", default="fusion", help="the node's pipeline.detector")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.ros import replay

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
        with replay.perception_process(bag.rig, settings=settings) as process:
            played = replay.play(bag, args.rate, args.loops, process=process)
        answers, result = played.answers, replay.summarise(played)
        shutil.rmtree(args.out, ignore_errors=True)
        table = Table(title=f"{len(answers)} frames through DDS and perception_node")
        for column in ("frame", "points", "boxes", "latency ms", "picture"):
            table.add_column(column, justify="right")
        # The quickest answer of each: one that waited for a late reading may lack it.
        slowest = sorted(
            (answer for answer in answers if answer.arrived_s is not None),
            key=lambda answer: answer.published_s - (answer.arrived_s or 0.0),
        )
        shown = {answer.index: answer for answer in slowest}
        for index, answer in sorted(shown.items()):
            frame, boxes = bag[index], answer.boxes()
            picture = args.out / f"frame_{index:02d}.png"
            title = f"{dataset.name}, frame {index}, as it came back over ROS 2"
            sheet = draw_sheet(frame, boxes, answer.grid(), title)
            if isinstance(dataset, Truthful):
                sheet = np.concatenate([sheet, draw_truth(dataset.truth(index))])
            save_png(picture, sheet)
            latency = 1e3 * ((answer.arrived_s or 0.0) - answer.published_s)
            points = sum(len(s.points) for s in frame.lidars.values())
            row = index, f"{points:,}", len(boxes), f"{latency:.1f}", picture
            table.add_row(*map(str, row))
    console.print(table)
    latency_ms = result["latency_ms"]
    console.print(
        f"sent {result['sent']}, answered {result['received']}; "
        f"latency p50 {latency_ms['p50']:.1f} ms, p95 {latency_ms['p95']:.1f} ms"
    )
    write_json(args.out / "demo.json", result)
    # A machine with other work may lose a best-effort message or be late for a frame.
    return 0 if result["received"] >= ANSWERED * result["sent"] else 1
