"""Functions in another process that is killed (SIGKILL) while they run.

The process is a fork of a server that has imported the package, because the import takes longer than
the small inputs of the tests. The server has no threads of torch, Embree or numba.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

IMPORTED = (
    "multimodal_perception.cli.main",
    "multimodal_perception.cli.convert",
    "multimodal_perception.cli.evaluate.detections",
    "multimodal_perception.cli.simulate",
    "multimodal_perception.cli.train.recipe",
    "multimodal_perception.simulation.simulation",
    "multimodal_perception.training.bev_fusion.stages",
    "multimodal_perception.training.image_fusion.train",
)
TIMEOUT_S = 240.0


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Call a function of the package in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def kill_when(
    condition: Callable[[], bool], what: str, function: Callable[..., Any], *arguments: Any
) -> None:
    """Kill a call as soon as a condition holds. what: describes the condition."""
    process = start(function, *arguments)
    try:
        end = time.monotonic() + TIMEOUT_S
        while not condition():
            assert process.is_alive(), f"the process ended before: {what}"
            assert time.monotonic() < end, f"not within {TIMEOUT_S} s: {what}"
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()


def run_to_end(function: Callable[..., Any], *arguments: Any) -> float:
    """Call a function in a new process, and return the time that it took, in seconds."""
    start(int).join()  # the first process waits for the imports of the server
    start_s = time.monotonic()
    process = start(function, *arguments)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0
    return time.monotonic() - start_s


def kill_at_random(
    seed: int, kills: int, seconds: float, out: Path, function: Callable[..., Any], *arguments: Any
) -> None:
    """Start a call and kill it, `kills` times, each at a random time.

    seconds: of an uninterrupted call. out: file or folder that the call writes; it is deleted whenever a
    call ends before its time, so that the next one starts from nothing.
    """
    rng, killed = random.Random(seed), 0
    for _ in range(10 * kills):
        process = start(function, *arguments)
        process.join(rng.uniform(0.0, seconds))
        was_running = process.is_alive()
        process.kill()
        process.join()
        killed += was_running
        if not was_running and out.is_dir():
            shutil.rmtree(out)
        elif not was_running:
            out.unlink()
        if killed == kills:
            return
    assert killed, "no call was killed before its end"
