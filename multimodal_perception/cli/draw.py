"""One frame as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from multimodal_perception.configuration import UserError, load
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP, open_dataset
from multimodal_perception.pipeline import PipelineConfig, build_pipeline
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.visualization.occupancy_layers import draw_layers
from multimodal_perception.visualization.recording import write_recording
from multimodal_perception.visualization.sheet import draw_sheet, save_png
from multimodal_perception.visualization.truth_view import Truthful, draw_truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help=PATH_HELP)
    parser.add_argument("--dataset", choices=DATASET_NAMES, help="what lies at PATH")
    parser.add_argument("--rig", help="rig of a bag (else made from its topics) or simulated drive")
    parser.add_argument("--frame", type=int, default=0, help="which one, from 0")
    parser.add_argument("--extent", type=float, default=40.0, help="metres to each side")
    parser.add_argument("--pipeline", type=Path, help="YAML file of PipelineConfig")
    parser.add_argument("--layers", action="store_true", help="all layers of the occupancy instead")
    parser.add_argument(
        "--history", type=int, default=10, help="with --layers: frames before that leave evidence"
    )
    parser.add_argument("--out", type=Path, required=True, help=".png, or .rrd with all frames")


def run(args: argparse.Namespace) -> int:
    if not 1.0 <= args.extent <= 200.0:
        raise UserError("--extent must be 1 to 200 m")
    if args.out.suffix not in (".png", ".rrd"):
        raise UserError(f"{args.out}: .png or .rrd")
    rig = None if args.rig is None else load_rig(rig_path(args.rig))
    dataset = open_dataset(args.path, args.dataset, rig)
    config = None if args.pipeline is None else load(PipelineConfig, args.pipeline)
    pipeline = build_pipeline(config)
    if args.out.suffix == ".rrd":
        count = write_recording(args.out, ((f, pipeline.process(f)) for f in dataset))
        print(f"{args.out}: {count} frames")
        return 0
    if not 0 <= args.frame < len(dataset):
        raise UserError(f"--frame {args.frame}: {dataset.name} has frames 0 to {len(dataset) - 1}")
    title = f"{dataset.name}, frame {args.frame}"
    if args.layers:
        if args.history < 0:
            raise UserError(f"--history {args.history}: must be 0 or more")
        for index in range(max(args.frame - args.history, 0), args.frame + 1):
            perception = pipeline.process(dataset[index])
        if perception.occupancy is None:
            raise UserError(f"{args.pipeline}: occupancy is none; there are no layers to draw")
        save_png(args.out, draw_layers(perception.occupancy, perception.boxes, title=title))
        print(f"{args.out}: {len(perception.boxes)} boxes")
        return 0
    frame = dataset[args.frame]
    perception = pipeline.process(frame)
    sheet = draw_sheet(frame, perception.boxes, perception.occupancy, title, args.extent)
    if isinstance(dataset, Truthful):
        sheet = np.concatenate([sheet, draw_truth(dataset.truth(args.frame), args.extent)])
    save_png(args.out, sheet)
    print(f"{args.out}: {len(perception.boxes)} boxes")
    return 0
