"""Training of RGB-X segmentation on simulated drives, from rendering to a model's folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from multimodal_perception.configuration import load

VALIDATED_DRIVES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the drives; missing ones are rendered"
    )
    parser.add_argument("--drives", type=int, default=96, help="of 10 frames each")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="that render")
    parser.add_argument(
        "--other", choices=("thermal", "lidar"), default="thermal", help="what X is"
    )
    parser.add_argument("--config", type=Path, help="YAML file of SegmentationTraining")
    parser.add_argument("--fusion", choices=("cmx", "ssma", "visible", "other"))
    parser.add_argument("--steps", type=int, help="overrides the file's")
    parser.add_argument("--batch", type=int, help="overrides the file's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--start", type=Path, help="weights (.safetensors) to begin with")
    parser.add_argument(
        "--backbones", type=Path, help="weights of another fusion, to begin with its backbones"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder; resumes what lies there")


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    from multimodal_perception.runtime.card import Training
    from multimodal_perception.training import checkpoint
    from multimodal_perception.training.curves import Curves
    from multimodal_perception.training.segmentation import train as segmentation
    from multimodal_perception.training.segmentation.dataset import read_drives
    from multimodal_perception.training.segmentation.export import export_model
    from multimodal_perception.training.segmentation.rendering import render_drives

    config = segmentation.SegmentationTraining()
    if args.config is not None:
        config = load(segmentation.SegmentationTraining, args.config)
    given = {k: v for k in ("fusion", "steps", "batch") if (v := getattr(args, k)) is not None}
    config = segmentation.checked({**dataclasses.asdict(config), **given})
    paths = render_drives(
        args.data, args.drives, args.workers, args.other == "lidar", lambda x: tqdm(x, "drives")
    )
    held = min(VALIDATED_DRIVES, len(paths) // 2)
    views, own = read_drives(paths[: len(paths) - held], args.other)
    validation = read_drives(paths[len(paths) - held :], args.other)[0]
    trainer = segmentation.Trainer(config, views, own, args.seed)
    if args.start is not None:
        checkpoint.load_weights(trainer.network, args.start)
        checkpoint.load_weights(trainer.averaged, args.start)
    elif args.backbones is not None:
        segmentation.take_backbones(trainer.network, args.backbones)
        segmentation.take_backbones(trainer.averaged, args.backbones)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "checkpoint.pt"
    parts: dict[str, checkpoint.Stateful] = {
        "network": trainer.state,
        "optimiser": trainer.optimiser,
    }
    trainer.steps_done = checkpoint.resume(path, parts)
    print(f"{len(views)} views, {len(own)} of thermal alone; from step {trainer.steps_done}")
    curves = Curves(args.out, trainer.steps_done)
    with SummaryWriter(str(args.out)) as writer:

        def tell(step: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            curves.add(step, figures)
            scores = {k: f"{v:.3f}" for k, v in figures.items() if k.startswith("miou")}
            if scores:
                tqdm.write(f"step {step}: {scores}")

        def save() -> None:
            checkpoint.save(path, parts, trainer.steps_done)
            curves.save()

        def progress(steps: range) -> tqdm[int]:
            return tqdm(steps, initial=steps.start, total=config.steps, unit="step", mininterval=2)

        segmentation.train(trainer, validation, args.save_every, tell, save, progress)
    curves.save()
    command = f"train segmentation --drives {args.drives} --steps {config.steps}"
    data = f"{len(views)} frames of {len(paths) - held} simulated drives, {len(own)} thermal views"
    training = Training(
        f"multimodal-perception {command} --fusion {config.fusion}",
        args.seed,
        round(curves.hours, 2),
        str(trainer.device),
        data,
    )
    card = export_model(trainer.averaged, args.out, training, args.other)
    print(f"{card.path}: {card.figures['parameters']} parameters")
    return 0
