"""Published weights made into models of this package."""

from __future__ import annotations

import argparse

from multimodal_perception import tasks
from multimodal_perception.tasks import import_

HELP = "turn published weights into a model folder with card and ONNX"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks.add_tasks(parser, import_)


def run(args: argparse.Namespace) -> int:
    return int(args.run_task(args))
