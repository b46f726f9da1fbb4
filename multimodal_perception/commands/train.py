"""Training of each network."""

from __future__ import annotations

import argparse

from multimodal_perception import tasks
from multimodal_perception.tasks import train

HELP = "train a network on simulated or recorded data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks.add_tasks(parser, train)


def run(args: argparse.Namespace) -> int:
    return int(args.run_task(args))
