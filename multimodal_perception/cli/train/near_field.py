"""The learned near field: drives recorded, trained on, scored and exported by one command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multimodal_perception.configuration import UserError

# Seeds of the drives that are scored; training never sees them.
HELD_OUT = 10_000
# Of the training seeds' drives one in so many calibrates the evidence instead.
CALIBRATING = 11
PARTS = ("sound", "dilation", "two_stage")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of shards; made there")
    parser.add_argument("--out", type=Path, required=True, help="folder of model and checkpoint")
    parser.add_argument("--drives", type=int, default=90, help="to train on, seeds from 0")
    parser.add_argument("--held-out", type=int, default=30, help="to score on, seeds from 10000")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights (.safetensors) to begin with")
    parser.add_argument("--rig", default="near_field", help="rig file, or a shipped rig's name")
    parser.add_argument(
        "--without", choices=PARTS, action="append", default=[], help="leave out, for comparison"
    )


def run(args: argparse.Namespace) -> int:
    from multimodal_perception.networks.near_field import NearFieldSettings
    from multimodal_perception.rig import load_rig, rig_path
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training.checkpoint import load_weights
    from multimodal_perception.training.near_field import train as training
    from multimodal_perception.training.near_field.export import export_near_field

    for name, low in (("drives", 1), ("held_out", 1), ("epochs", 1), ("seed", 0)):
        if not low <= getattr(args, name) < HELD_OUT:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: allowed: {low} to {HELD_OUT - 1}")
    rig = load_rig(rig_path(args.rig))
    start = time.monotonic()
    shards = record_drives(args.data, rig, range(args.drives))
    held_out = record_drives(args.data, rig, range(HELD_OUT, HELD_OUT + args.held_out))
    settings = NearFieldSettings(
        content_aware="dilation" not in args.without, two_stage="two_stage" not in args.without
    )
    network = training.new_network(settings, args.seed)
    if args.start is not None:
        load_weights(network, args.start)
    options = training.TrainingOptions(
        epochs=args.epochs, seed=args.seed, fisheye_only="sound" in args.without
    )
    held = shards[CALIBRATING - 1 :: CALIBRATING]
    bar = tqdm([s for s in shards if s not in held] or shards, desc="features", unit="drive")
    samples = training.joined(list(training.load_samples(bar, rig, network)))
    args.out.mkdir(parents=True, exist_ok=True)
    training.train(network, samples, options, args.out)
    if held:
        unseen = training.joined(list(training.load_samples(held, rig, network)))
        training.calibrate(network, unseen, sound=not options.fisheye_only)
    figures = _scored(network, held_out, rig, options.fisheye_only)
    words = "".join(f" --without {part}" for part in args.without)
    command = f"multimodal-perception train near-field --data DATA --out OUT --drives {args.drives}"
    words += f" --start {args.start.name}" if args.start is not None else ""
    command += f" --epochs {args.epochs} --seed {args.seed}{words}"
    hours = (time.monotonic() - start) / 3600
    data = f"{len(samples)} frames of {args.drives} simulated drives, rig {rig.name}"
    made = Training(command, args.seed, round(hours, 3), "cpu", data)
    card = export_near_field(network, args.out, made, figures)
    (args.out / "options.json").write_text(json.dumps(dataclasses.asdict(options)) + "\n")
    for name, groups in figures.items():
        for group, values in groups.items():
            shown = {k: values.get(k) for k in ("iou_hard", "iou_occupied", "false_free", "ece")}
            print(f"{name}, {group}: {shown}")
    print(card.path)
    return 0


def record_drives(folder: Path, rig: Any, seeds: range) -> list[Path]:
    """The shards of drives, recorded where they are not there yet; Ctrl-C loses one at most."""
    from multimodal_perception.training.near_field.dataset import drives, record

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    paths = []
    for drive in tqdm(drives(seeds), desc="drives", unit="drive"):
        path = folder / f"{drive.name}.npz"
        record(drive, rig, path)
        paths.append(path)
    return paths


def _scored(network: Any, shards: list[Path], rig: Any, fisheye_only: bool) -> dict[str, Any]:
    """Figures with all sensors, and with one kind of them left out."""
    from multimodal_perception.training.near_field import train as training

    samples = training.joined(list(training.load_samples(shards, rig, network)))
    both = training.score(network, samples, sound=not fisheye_only)
    figures: dict[str, Any] = {"both": both}
    if not fisheye_only:
        figures["fisheyes"] = training.score(network, samples, sound=False)
        figures["ultrasonics"] = training.score(network, samples, eyes=False)
    return {k: {g: _rounded(v) for g, v in groups.items()} for k, groups in figures.items()}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if value == value}
