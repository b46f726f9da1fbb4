"""`train samples`: training samples of the detector, of simulated drives or labelled recordings."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.cli.train.options import add_workers_argument, check_workers
from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder; existing samples are kept")
    parser.add_argument(
        "--root", help="labelled data (KITTI, nuScenes or a bag) instead of simulated drives"
    )
    parser.add_argument(
        "--labels-in-view",
        action="store_true",
        help="with --root: only objects in the field of view of a camera are labelled; other regions "
        "are excluded from the loss (always on for KITTI)",
    )
    parser.add_argument(
        "--seeds", default="0..9", metavar="A..B", help="seeds of the drives, A to B inclusive"
    )
    parser.add_argument(
        "--rig", default="simulation", help="rig file, or the name of a shipped rig"
    )
    parser.add_argument("--frames", type=int, default=20, help="samples in each drive")
    parser.add_argument(
        "--frame-interval", type=int, default=15, help="sweeps from one sample to the next"
    )
    add_workers_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.frames < 1 or args.frame_interval < 1:
        raise UserError("--frames and --frame-interval must be at least 1")
    check_workers(args)
    count = _recorded(args) if args.root else _simulated(args)
    print(f"{args.out}: {count} samples written")
    return 0


def _recorded(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.cli.recordings import open_recording, print_notes
    from multimodal_perception.datasets.kitti import KittiDataset
    from multimodal_perception.training.detector.samples import build_sample, write_sample

    dataset = open_recording(args.root)
    in_view = args.labels_in_view or isinstance(dataset, KittiDataset)
    args.out.mkdir(parents=True, exist_ok=True)
    count = 0
    for index, frame in enumerate(tqdm(dataset, unit="frame")):
        if frame.labels is None:
            continue
        metadata = {"dataset": dataset.name, "frame": index}
        sample = build_sample(frame, metadata, labels_in_view=in_view)
        write_sample(args.out / f"{index:06d}.npz", sample)
        count += 1
    print_notes(dataset)
    if not count:
        raise UserError(f"{args.root}: no frame has labels")
    return count


def _simulated(args: argparse.Namespace) -> int:
    from multimodal_perception.rig import load_rig, resolve_rig_path
    from multimodal_perception.training.detector.drives import render_samples

    seeds = parse_seeds(args.seeds)
    rig = load_rig(resolve_rig_path(args.rig))
    return render_samples(seeds, rig, args.frames, args.frame_interval, args.out, args.workers)
