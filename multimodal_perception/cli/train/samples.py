"""Samples for training, of simulated drives or of labelled recordings."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from multimodal_perception.cli.drive_options import parse_seeds
from multimodal_perception.configuration import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--root", help="labelled data (KITTI, nuScenes, a bag) instead of drives")
    parser.add_argument(
        "--labels-in-view",
        action="store_true",
        help="--root: what no camera sees is not labelled, and not learnt; KITTI is taken so anyway",
    )
    parser.add_argument(
        "--seeds", default="0..9", metavar="A..B", help="drives, both ends included"
    )
    parser.add_argument("--rig", default="simulation", help="name in config/rigs, or a .yaml")
    parser.add_argument("--frames", type=int, default=20, help="samples a drive")
    parser.add_argument("--every", type=int, default=15, help="sweeps from one sample to the next")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="drives at a time")


def run(args: argparse.Namespace) -> int:
    if args.frames < 1 or args.every < 1 or not 1 <= args.workers <= 64:
        raise UserError("--frames and --every must be at least 1, --workers 1 to 64")
    count = _recorded(args) if args.root else _simulated(args)
    print(f"{args.out}: {count} samples written")
    return 0


def _recorded(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.datasets.kitti import Kitti
    from multimodal_perception.datasets.open_dataset import open_dataset
    from multimodal_perception.training.detector.samples import sample_of, write_sample

    dataset = open_dataset(args.root)
    in_view = args.labels_in_view or isinstance(dataset, Kitti)
    args.out.mkdir(parents=True, exist_ok=True)
    count = 0
    for index, frame in enumerate(tqdm(dataset, unit="frame")):
        if frame.labels is None:
            continue
        told = {"dataset": dataset.name, "frame": index}
        sample = sample_of(frame, told, labels_in_view=in_view)
        write_sample(args.out / f"{index:06d}.npz", sample)
        count += 1
    if not count:
        raise UserError(f"{args.root}: no frame has labels")
    return count


def _simulated(args: argparse.Namespace) -> int:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from tqdm import tqdm

    from multimodal_perception.rig import load_rig, rig_path

    seeds = parse_seeds(args.seeds)
    rig = load_rig(rig_path(args.rig))
    # Forked threads of Embree would never run again.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, _prepare, (args.workers,)) as pool:
        tasks = [pool.submit(_write, s, rig, args.frames, args.every, args.out) for s in seeds]
        try:
            return sum(
                t.result() for t in tqdm(as_completed(tasks), total=len(tasks), unit="drive")
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare(workers: int) -> None:
    from multimodal_perception.processes import begin_worker
    from multimodal_perception.simulation.world import scene

    begin_worker()
    scene.THREADS = max(1, (os.cpu_count() or 1) // workers)


def _write(seed: int, rig, frames: int, every: int, out: Path) -> int:  # type: ignore[no-untyped-def]
    from multimodal_perception.training.detector.drives import drive_of, write_drive

    return write_drive(drive_of(seed), rig, frames, every, out)
