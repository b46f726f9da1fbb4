"""Training of the image fusion."""

from __future__ import annotations

import argparse
from pathlib import Path

from multimodal_perception.configuration import UserError, load

SAVE_EVERY = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, help="folder with visible/ and infrared/")
    parser.add_argument(
        "--simulated",
        type=Path,
        nargs="*",
        default=[],
        help="folders of `simulate --rig camera_thermal --format dataset`",
    )
    parser.add_argument("--config", type=Path, help="YAML file of FusionTraining")
    parser.add_argument("--steps", type=int, help="overrides the file's")
    parser.add_argument(
        "--attack", type=float, help="share of perturbed batches (PAIF); overrides the file's"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights (.safetensors) to begin with")
    parser.add_argument("--out", type=Path, required=True, help="folder; resumes what lies there")


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    from multimodal_perception.networks.moe_fusion import FusedOnly
    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training import checkpoint
    from multimodal_perception.training.curves import Curves
    from multimodal_perception.training.image_fusion import train as image_fusion
    from multimodal_perception.training.image_fusion.export import export_model

    config = image_fusion.FusionTraining()
    if args.config is not None:
        config = load(image_fusion.FusionTraining, args.config)
    given = {k: v for k in ("steps", "attack") if (v := getattr(args, k)) is not None}
    config = image_fusion.checked({**dataclasses.asdict(config), **given})
    if args.root is None and not args.simulated:
        raise UserError("--root or --simulated is needed: there is nothing to train on")
    real = [] if args.root is None else image_fusion.real_samples(args.root, tqdm)
    simulated = image_fusion.simulated_samples(args.simulated)
    trainer = image_fusion.Trainer(config, real, simulated, args.seed)
    if args.start is not None:
        for network in (trainer.network, trainer.averaged):
            checkpoint.load_weights(FusedOnly(network), args.start)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "checkpoint.pt"
    parts: dict[str, checkpoint.Stateful] = {
        "network": trainer.state,
        "optimiser": trainer.optimiser,
    }
    trainer.steps_done = checkpoint.resume(path, parts)
    print(f"{len(real)} real and {len(simulated)} simulated pairs; from step {trainer.steps_done}")
    curves = Curves(args.out, trainer.steps_done)
    first = range(trainer.steps_done, config.steps)
    steps = tqdm(first, initial=first.start, total=config.steps, unit="step", mininterval=2)
    with SummaryWriter(str(args.out)) as writer:
        for step in steps:
            losses = trainer.step()
            for name, value in losses.items():
                writer.add_scalar(f"loss/{name}", value, step)
            curves.add(step + 1, {f"loss/{name}": value for name, value in losses.items()})
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == config.steps:
                checkpoint.save(path, parts, step + 1)
                curves.save()
    command = (
        f"multimodal-perception train image-fusion --steps {config.steps} --attack {config.attack}"
    )
    data = f"{len(real)} real pairs (each fifth held out), {len(simulated)} simulated"
    training = Training(command, args.seed, round(curves.hours, 2), "cpu", data)
    card = export_model(trainer.averaged, args.out, training)
    print(f"{card.path}: {card.figures['parameters']} parameters")
    return 0
