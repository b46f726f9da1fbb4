"""`train near-field`: the near-field network, from simulated drives to a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.cli.drive_options import add_profile_argument
from multimodal_perception.cli.train.options import (
    add_training_arguments,
    add_workers_argument,
    check_workers,
    set_threads,
)
from multimodal_perception.configuration import UserError, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of the simulated drives; missing ones are simulated and stored there",
    )
    parser.add_argument("--drives", type=int, default=90, help="number of drives, seeds from 0")
    parser.add_argument(
        "--rig", default="near_field", help="rig file, or the name of a shipped rig"
    )
    add_workers_argument(parser)
    add_profile_argument(parser)
    add_training_arguments(parser, "near_field")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.rig import load_rig, resolve_rig_path
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.checkpoint import read_hours
    from multimodal_perception.training.distributed import join_process_group, training_device
    from multimodal_perception.training.near_field.dataset import (
        FIRST_EVALUATION_SEED,
        simulate_drives,
    )
    from multimodal_perception.training.near_field.export import export_near_field
    from multimodal_perception.training.near_field.train import NearFieldTraining, train_near_field

    if not 1 <= args.drives <= FIRST_EVALUATION_SEED:
        raise UserError(f"--drives: allowed: 1 to {FIRST_EVALUATION_SEED}; got {args.drives}")
    check_workers(args)
    config = NearFieldTraining()
    if args.config is not None:
        config = load(NearFieldTraining, args.config)
    set_threads(args)
    rig = load_rig(resolve_rig_path(args.rig))
    shards = simulate_drives(args.data, rig, range(args.drives), args.workers, args.profile)
    network = train_near_field(config, shards, rig, args.out, args.start)
    device = str(training_device(join_process_group()[0]))
    hours = round(read_hours(args.out), 2)
    data = f"{args.drives} simulated drives, rig {rig.name}"
    training = Training("train near-field", config.loop.seed, hours, device, data)
    card = export_near_field(network, args.out, training, {})
    print(f"{card.path}; compute its figures with `evaluate near-field --model {card.path}`")
    return 0
