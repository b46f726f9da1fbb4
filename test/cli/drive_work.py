"""Work for the tests of the executor; other processes import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from multimodal_perception.configuration import UserError


def work(job: tuple[str, int]) -> int:
    """Squares a number, after a time that makes later jobs finish first."""
    kind, number = job
    if kind == "broken":
        raise UserError(f"drive {number}: not a bag")
    if kind == "fault":
        raise ZeroDivisionError("a fault in the program")
    time.sleep(0.05 * (number % 3))
    return number * number


def work_and_kill(job: tuple[str, int]) -> int:
    """Kills its own process: once for a job with a folder, each time for the job "always"."""
    folder, number = job
    if folder == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    marker = Path(folder) / "killed"
    if number == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number + 1


def count_and_work(job: tuple[str, int]) -> int:
    """Like work, and adds a line to a file at each call."""
    with (Path(job[0]) / "calls").open("a") as file:
        file.write(f"{job[1]}\n")
    return job[1] * 2
