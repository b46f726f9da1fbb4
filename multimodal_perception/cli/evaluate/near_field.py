"""`evaluate near-field`: metrics of the near-field network on simulated drives."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multimodal_perception.cli.drive_options import add_profile_argument, parse_seeds
from multimodal_perception.evaluation.report import write_json
from multimodal_perception.simulation.rigs import RIG_HELP, open_rig

PRINTED_METRICS = ("iou_hard", "iou_occupied", "false_free", "ece")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="near_field", help="name of a shipped model, or a model card"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of the simulated drives; missing drives are simulated and stored there",
    )
    parser.add_argument(
        "--seeds",
        default="10000..10029",
        metavar="A..B",
        help="random seeds of the simulated drives, both ends included",
    )
    add_profile_argument(parser)
    parser.add_argument("--rig", default="near_field", help=RIG_HELP)
    parser.add_argument("--json", type=Path, help="write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.runtime.card import load_card
    from multimodal_perception.training.near_field.dataset import simulate_drives
    from multimodal_perception.training.near_field.export import load_near_field
    from multimodal_perception.training.near_field.samples import concatenate_samples, load_samples
    from multimodal_perception.training.near_field.scoring import score_by_modality

    network = load_near_field(load_card(args.model))
    rig = open_rig(args.rig)
    seeds = parse_seeds(args.seeds)
    shards = simulate_drives(args.data, rig, seeds, profile=args.profile)
    samples = concatenate_samples(list(load_samples(shards, rig, network)))
    rows = score_by_modality(network, samples)
    for name, groups in rows.items():
        for group, values in groups.items():
            print(f"{name}, {group}: { ({k: values[k] for k in PRINTED_METRICS if k in values}) }")
    if args.json is not None:
        result: dict[str, Any] = {"seeds": args.seeds, "frames": len(samples), "rows": rows}
        write_json(args.json, result)
    return 0
