"""Start times of the command line, of `doctor` and of the node until it is active; import times.

Every program is started once without measurement, which fills the caches of compiled kernels, measured
engines and files. CPU time depends little on other programs; elapsed time must be measured on an idle
computer. The node is active when its lifecycle service reports it (lifecycle_msgs/srv/GetState).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from multimodal_perception.benchmarks.report import (
    add_json_argument,
    check_options,
    print_report,
)
from multimodal_perception.configuration import UserError
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.runtime.processor import processor_name

CLI = (sys.executable, "-m", "multimodal_perception.cli.main")
NODE_MODULE = "multimodal_perception.ros.node"
# Elapsed times that this package should not exceed on two idle cores with warm caches, seconds.
LIMITS_S = {"help": 0.5, "doctor": 4.0, "node": 5.0}
START_TIMEOUT_S = 300.0
LISTED_PACKAGES = 12
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|( *)(\S+)")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--rig", default="kitti", help="rig of the node (default: kitti)")
    parser.add_argument(
        "--detectors",
        nargs="+",
        default=["geometric", "fusion"],
        help="values of the parameter pipeline.detector (default: geometric fusion)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="measured starts of each program (default: 3)"
    )
    add_json_argument(parser)


def run(args: Namespace) -> int:
    check_options(args)
    print_report("startup", measure(args), args.json)
    return 0


def measure(args: Namespace) -> dict[str, Any]:
    """Start all programs; return the report. Raises UserError if the node does not become active."""
    rig = load_rig(resolve_rig_path(args.rig))
    result: dict[str, Any] = {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "limit_s": LIMITS_S,
        "help": repeated(lambda: time_command([*CLI, "--help"]), args.repeats),
        "doctor": repeated(lambda: time_command([*CLI, "doctor"]), args.repeats),
    }
    for detector in args.detectors:
        start = start_timer(rig, {"pipeline.detector": detector})
        result[f"node {detector}"] = repeated(start, args.repeats)
    result["import_ms"] = import_profile(NODE_MODULE)
    return result


def repeated(
    measure_once: Callable[[], tuple[float, float]], repeats: int
) -> dict[str, float | int]:
    """Medians of elapsed and CPU time, and the shortest elapsed time, of starts after the first one."""
    first_s, _ = measure_once()
    times = [measure_once() for _ in range(repeats)]
    return {
        "elapsed_s": statistics.median(t for t, _ in times),
        "shortest_s": min(t for t, _ in times),
        "cpu_s": statistics.median(c for _, c in times),
        "first_s": first_s,
    }


def time_command(command: Sequence[str]) -> tuple[float, float]:
    """Elapsed time and CPU time, with its children, of a program. Raises UserError if it cannot run."""
    start_s, before = time.perf_counter(), os.times()
    process = subprocess.run(command, capture_output=True, check=False)
    elapsed_s, after = time.perf_counter() - start_s, os.times()
    if process.returncode > 1:
        raise UserError(f"{' '.join(command)}: exit status {process.returncode}")
    children = [t.children_user + t.children_system for t in (before, after)]
    return elapsed_s, children[1] - children[0]


def start_timer(rig: Rig, settings: dict[str, str]) -> Callable[[], tuple[float, float]]:
    """A function that starts the node and returns elapsed and CPU time until it is active."""

    def start() -> tuple[float, float]:
        import rclpy
        from lifecycle_msgs.msg import State
        from lifecycle_msgs.srv import GetState

        from multimodal_perception.ros.node_process import perception_process, prepare_environment

        prepare_environment()
        with rclpy.init():
            client_node = rclpy.create_node("startup_benchmark")
            client: Any = client_node.create_client(GetState, "/perception/get_state")
            start_s = time.perf_counter()
            with perception_process(rig, settings=settings) as process:
                while time.perf_counter() - start_s < START_TIMEOUT_S:
                    if process.poll() is not None:
                        raise UserError("the node could not be started; the reason is in its log")
                    if not client.wait_for_service(0.01):
                        continue
                    future = client.call_async(GetState.Request())
                    rclpy.spin_until_future_complete(client_node, future, timeout_sec=1.0)
                    answer = future.result()
                    if answer is not None and answer.current_state.id == State.PRIMARY_STATE_ACTIVE:
                        break
                else:
                    raise UserError(f"the node is not active after {START_TIMEOUT_S:.0f} s")
                elapsed_s = time.perf_counter() - start_s
                used = psutil.Process(process.pid).cpu_times()
            client_node.destroy_node()
        return elapsed_s, used.user + used.system

    return start


def import_profile(module: str) -> dict[str, float]:
    """Time of the imports of a module by top-level package, milliseconds, without their own imports.

    The slowest LISTED_PACKAGES, then the others and the sum. Python measures it (-X importtime).
    """
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    return sum_by_package(output)


def sum_by_package(output: str) -> dict[str, float]:
    """Times of the output of -X importtime by top-level package, see import_profile."""
    times: Counter[str] = Counter()
    for own_us, _, _, name in IMPORT_LINE.findall(output):
        times[name.partition(".")[0]] += int(own_us)
    listed = times.most_common(LISTED_PACKAGES)
    result = {name: us / 1e3 for name, us in listed}
    result["others"] = (times.total() - sum(us for _, us in listed)) / 1e3
    result["sum"] = times.total() / 1e3
    return result
