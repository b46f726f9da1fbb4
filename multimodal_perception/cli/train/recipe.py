"""`train recipe`: a complete training run, from simulated data to a model card."""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multimodal_perception.cli.argument_ranges import check_values
from multimodal_perception.cli.train.options import add_workers_argument, check_workers
from multimodal_perception.configuration import UserError

if TYPE_CHECKING:
    from multimodal_perception.training.recipe.steps import Step, StepRunner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", help="recipe file, a folder with recipe.yaml, or the name of a shipped recipe"
    )
    parser.add_argument(
        "--out", type=Path, help="output folder (default: runs/NAME with the name in the recipe)"
    )
    parser.add_argument(
        "--only",
        metavar="STEP",
        help="run a single step, for example train/fusion or the stage fusion",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the steps with disk space and time, and exit"
    )
    parser.add_argument(
        "--pack",
        nargs="?",
        const="",
        metavar="FILE",
        help="write the state of the training in the output folder to a file of at most 16 MiB and exit "
        "(default: checkpoint.safetensors beside the recipe, from which a run in an empty folder "
        "continues); also while another process trains",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that train a stage, one for each GPU"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: all cores)")
    add_workers_argument(parser)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from multimodal_perception.cli.train.options import set_threads
    from multimodal_perception.training.recipe import packed_state
    from multimodal_perception.training.recipe.configuration import load_recipe
    from multimodal_perception.training.recipe.plan import Plan
    from multimodal_perception.training.recipe.steps import StepRunner, locked

    check_workers(args)
    if not 1 <= args.processes <= 64:
        raise UserError(f"--processes: allowed: 1 to 64; got {args.processes}")
    file = load_recipe(args.recipe, _evaluation_commands())
    out = (args.out or Path("runs", file.recipe.name)).resolve()
    plan = Plan(file, out, evaluate, args.workers, args.processes)
    steps = plan.steps()
    runner = StepRunner(out, steps)
    selected = steps if args.only is None else [_select(steps, args.only)]
    packed = file.path.parent / packed_state.FILE
    if args.pack is not None:
        print(packed_state.pack(runner, Path(args.pack) if args.pack else packed))
        return 0
    print_plan(runner, selected, out)
    if args.dry_run:
        return 0
    set_threads(args)
    with locked(out), tqdm(total=len(selected), desc=file.recipe.name, unit="step") as bar:
        if packed.exists():
            packed_state.restore(runner, packed, tqdm.write)
        for number, step in enumerate(selected, 1):
            tqdm.write(f"[{number}/{len(selected)}] {step.name}: {runner.state(step)}")
            runner.run(step)
            bar.update()
    if args.only is None:
        print(f"{plan.model_folder / file.recipe.name}: finished")
    return 0


def evaluate(words: Sequence[str]) -> None:
    """Run `evaluate` with the given arguments. Raises UserError."""
    from multimodal_perception.cli.main import COMMANDS

    name = COMMANDS["evaluate"].subcommands[words[0]].module
    command = importlib.import_module(name, "multimodal_perception.cli")
    parser = argparse.ArgumentParser(prog=f"multimodal-perception evaluate {words[0]}")
    command.add_arguments(parser)
    check_values(parser)
    try:
        namespace = parser.parse_args(list(words[1:]))
    except SystemExit:
        raise UserError(f"evaluate {' '.join(words)}: wrong arguments") from None
    if command.run(namespace):
        raise UserError(f"evaluate {' '.join(words)}: failed")


def _evaluation_commands() -> list[str]:
    from multimodal_perception.cli.main import COMMANDS

    return list(COMMANDS["evaluate"].subcommands)


def _select(steps: Sequence[Step], name: str) -> Step:
    for step in steps:
        if name in (step.name, step.name.partition("/")[2]):
            return step
    raise UserError(f"--only {name}: allowed: {', '.join(step.name for step in steps)}")


def print_plan(runner: StepRunner, steps: Sequence[Step], out: Path) -> None:
    """Print the steps, whether they are finished, and the disk space and time of the others."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{out}: estimates for a CPU with two cores")
    for column in ("step", "", "state"):
        table.add_column(column, overflow="fold")
    for column in ("disk", "time"):
        table.add_column(column, justify="right")
    size = seconds = 0.0
    for step in steps:
        state, cost = runner.state(step), step.cost
        cells = ("", "")
        if state != "finished":
            size, seconds = size + cost.bytes, seconds + cost.seconds
            cells = (_size(cost.bytes), _duration(cost.seconds))
        table.add_row(step.name, step.description, state, *cells)
    console = Console()
    console.print(table)
    folder = next(p for p in (out, *out.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    console.print(
        f"up to {_size(size)} of disk space ({_size(free)} free), about {_duration(seconds)} without "
        "evaluation"
    )
    if size > free:
        console.print("warning: there may not be enough free disk space")


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB" if count else "-"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s" if seconds else "-"
