"""How good and how fast each capability is on labelled data."""

from __future__ import annotations

import argparse

from multimodal_perception import tasks
from multimodal_perception.tasks import evaluate

HELP = "score what the package makes of labelled data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks.add_tasks(parser, evaluate)


def run(args: argparse.Namespace) -> int:
    return int(args.run_task(args))
