"""Networks to ONNX, and ONNX to engines."""

from __future__ import annotations

import argparse

from multimodal_perception import tasks
from multimodal_perception.tasks import export

HELP = "export networks to ONNX and build engines ahead of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tasks.add_tasks(parser, export)


def run(args: argparse.Namespace) -> int:
    return int(args.run_task(args))
