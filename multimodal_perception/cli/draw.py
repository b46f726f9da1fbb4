"""Draws a frame and its perception results to a PNG image, or all frames to a Rerun recording."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from multimodal_perception.cli.recordings import (
    add_recording_arguments,
    open_recording,
    print_notes,
)
from multimodal_perception.configuration import UserError, load
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.visualization.occupancy_layers import draw_layers
from multimodal_perception.visualization.recording import write_recording
from multimodal_perception.visualization.sheet import draw_sheet, save_png
from multimodal_perception.visualization.truth_view import HasGroundTruth, draw_truth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recording_arguments(parser)
    parser.add_argument(
        "--frame", type=int, default=0, help="index of the frame, from 0 (default: 0)"
    )
    parser.add_argument(
        "--extent",
        type=float,
        default=40.0,
        help="distance from the vehicle to each edge of the top view in metres (default: 40)",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        help="YAML file with the keys below `pipeline:` of config/perception.yaml",
    )
    parser.add_argument(
        "--layers", action="store_true", help="draw all layers of the occupancy grid instead"
    )
    parser.add_argument(
        "--history",
        type=int,
        default=10,
        help="with --layers: number of preceding frames that are fused into the grid (default: 10)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help=".png file of one frame, or .rrd recording of all frames",
    )


def run(args: argparse.Namespace) -> int:
    if not 1.0 <= args.extent <= 200.0:
        raise UserError(f"--extent: allowed: 1 to 200 m; got {args.extent:g}")
    if args.out.suffix not in (".png", ".rrd"):
        raise UserError(f"--out {args.out}: allowed suffixes: .png or .rrd")
    rig = None if args.rig is None else load_rig(resolve_rig_path(args.rig))
    dataset = open_recording(args.path, args.dataset, rig)
    config = None if args.pipeline is None else load(PipelineConfig, args.pipeline)
    pipeline = build_pipeline(config)
    if args.out.suffix == ".rrd":
        results = ((f, pipeline.process(f)) for f in dataset)
        count = write_recording(args.out, results, dataset.rig)
        print_notes(dataset)
        print(f"{args.out}: {count} frames")
        return 0
    if not 0 <= args.frame < len(dataset):
        raise UserError(f"--frame {args.frame}: {dataset.name} has frames 0 to {len(dataset) - 1}")
    title = f"{dataset.name}, frame {args.frame}"
    if args.layers:
        for index in range(max(args.frame - args.history, 0), args.frame + 1):
            perception = pipeline.process(dataset[index])
        if perception.occupancy is None:
            raise UserError(f"{args.pipeline}: occupancy is none, so there are no layers to draw")
        save_png(args.out, draw_layers(perception.occupancy, perception.boxes, title=title))
        print(f"{args.out}: {len(perception.boxes)} boxes")
        return 0
    frame = dataset[args.frame]
    print_notes(dataset)
    perception = pipeline.process(frame)
    sheet = draw_sheet(frame, perception.boxes, perception.occupancy, title, args.extent)
    if isinstance(dataset, HasGroundTruth):
        sheet = np.concatenate([sheet, draw_truth(dataset.truth(args.frame), args.extent)])
    save_png(args.out, sheet)
    print(f"{args.out}: {len(perception.boxes)} boxes")
    return 0
