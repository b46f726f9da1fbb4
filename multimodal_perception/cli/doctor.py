"""Lists installed and missing software, with the command that installs each missing part."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from multimodal_perception import __version__
from multimodal_perception.cli.import_worker import Imported, distribution_version, import_modules
from multimodal_perception.extras import EXTRAS
from multimodal_perception.resources import share_path

if TYPE_CHECKING:
    from multimodal_perception.rig import Rig

State = Literal["ok", "optional", "missing"]
INSTALL_COMMAND = "make env"
# Packages that the node needs: module, distribution and purpose.
CORE_PACKAGES = (
    ("numpy", "numpy", "arrays"),
    ("scipy", "scipy", "rotations"),
    ("cv2", "opencv-python-headless", "images"),
    ("numba", "numba", "point kernels"),
    ("yaml", "PyYAML", "configuration"),
    ("PIL", "Pillow", "compressed images"),
    ("psutil", "psutil", "CPU and memory"),
)
# At least one of them is needed for networks.
ENGINES = ("onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx")
TENSORRT = ("tensorrt", "tensorrt_rtx")
# Packages of extras with native libraries: they are imported, the others are only looked for.
NATIVE = ("torch", "safetensors", "onnx", "openvino", "open3d", "rerun")
MESSAGE_PACKAGES = (
    "sensor_msgs",
    "nav_msgs",
    "visualization_msgs",
    "diagnostic_msgs",
    "lifecycle_msgs",
    "vision_msgs",
    "tf2_msgs",
)
# What the node does without each of them.
OPTIONAL_ROS_PACKAGES = {
    "message_filters": "the node subscribes by rclpy",
    "cv_bridge": "images of encodings that this package does not decode are dropped",
}


@dataclass(frozen=True)
class Check:
    """One line of the report. detail: version or problem. fix: command that fixes the problem."""

    subject: str
    state: State
    detail: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rig", help="rig file, or name of a shipped rig, to check as well")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="compile the kernels and measure the inference engines now, so that the first start of the "
        "node takes no longer than later ones; with --rig, for the sensors of this rig",
    )


def run(args: argparse.Namespace) -> int:
    found = import_all()
    checks = [*_system(), *_core(found), *_extras(found), *_ros(found), *_dds(), *_engines(found)]
    table = Table(title=f"multimodal_perception {__version__}")
    for column in ("component", "state", "detail", "fix"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "optional": "yellow", "missing": "red"}
    for f in checks:
        table.add_row(f.subject, f"[{colours[f.state]}]{f.state}[/]", f.detail, f.fix)
    console = Console()
    console.print(table)
    rig = None
    if args.rig:
        from multimodal_perception.rig import load_rig, resolve_rig_path

        rig = load_rig(resolve_rig_path(args.rig))
        console.print(f"rig {rig.name}: {', '.join(rig.sensors)}")
    broken = [f.subject for f in checks if f.state == "missing"]
    if broken:
        console.print(f"[red]perception cannot run without: {', '.join(broken)}[/]")
        return 1
    if args.warm:
        _warm_up(console, rig)
    console.print("[green]perception can run[/]")
    return 0


def _warm_up(console: Console, rig: Rig | None) -> None:
    """Fill the caches of kernels, measured times and compiled models for the default parameters."""
    from multimodal_perception.kernels import CACHE_FOLDER
    from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
    from multimodal_perception.pointcloud.deskew import compile_kernels

    start = time.monotonic()
    with console.status("compiling kernels and measuring inference engines"):
        compile_kernels()
        build_pipeline(PipelineConfig(), rig)
    seconds = time.monotonic() - start
    console.print(f"kernels and engines are ready ({seconds:.0f} s); kernels: {CACHE_FOLDER}")


def _system() -> list[Check]:
    version = platform.python_version()
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    detail = f"{version} in {sys.prefix}"
    fix = "" if supported else "use Python 3.10, 3.11 or 3.12"
    return [
        Check("Python", "ok" if supported else "missing", detail, fix),
        Check("machine", "ok", f"{platform.machine()}, {os.cpu_count()} cores, {_os_name()}"),
    ]


def import_all() -> dict[str, Imported]:
    """Import all packages in two processes, because torch takes as long as all others together."""
    messages = [f"{package}.msg" for package in MESSAGE_PACKAGES]
    first = ["torch", "safetensors", "onnx", *TENSORRT]
    others = [name for name, *_ in CORE_PACKAGES] + ["onnxruntime"]
    others += [name for name in NATIVE if name not in first]
    return import_modules([first, [*others, "rclpy", *messages, *OPTIONAL_ROS_PACKAGES]])


def _core(found: Mapping[str, Imported]) -> list[Check]:
    checks = []
    for module, distribution, purpose in CORE_PACKAGES:
        result = found[module]
        if result.error:
            fix = _pip_install(distribution)
            checks.append(Check(module, "missing", f"{result.error} ({purpose})", fix))
        else:
            checks.append(Check(module, "ok", result.version))
    return checks


def _extras(found: Mapping[str, Imported]) -> list[Check]:
    """The packages that only some commands need."""
    checks = []
    for extra in EXTRAS:
        for module, distribution in extra.packages.items():
            result = found.get(module)
            if result is None:
                version = distribution_version(module) or distribution_version(distribution)
                error = "" if importlib.util.find_spec(module) else "not installed"
            else:
                version, error = result.version, result.error
            if error:
                detail = f"{error} (extra {extra.name}: {extra.purpose})"
                checks.append(Check(module, "optional", detail, _pip_install(distribution)))
            else:
                checks.append(Check(module, "ok", version))
    return checks


def _pip_install(distribution: str) -> str:
    return f"{sys.executable} -m pip install {distribution}"


def _ros(found: Mapping[str, Imported]) -> list[Check]:
    rclpy = found["rclpy"]
    distribution = os.environ.get("ROS_DISTRO")
    fix = "source /opt/ros/<distribution>/setup.bash, or " + INSTALL_COMMAND
    if rclpy.error:
        return [Check("ROS 2", "missing", f"rclpy: {rclpy.error}", fix)]
    source = f"{distribution} (sourced)" if distribution else "from wheels"
    checks = [Check("ROS 2", "ok", f"rclpy {rclpy.version}, {source}")]
    for package in MESSAGE_PACKAGES:
        result = found[f"{package}.msg"]
        if result.error:
            fix = _apt_install(package) if distribution else INSTALL_COMMAND
            checks.append(Check(package, "missing", result.error, fix))
        elif package in ("vision_msgs", "tf2_msgs"):
            in_underlay = result.file.startswith(sys.prefix) and not distribution
            checks.append(Check(package, "ok", "underlay" if in_underlay else "distribution"))
    for package, use in OPTIONAL_ROS_PACKAGES.items():
        if found[package].error:
            fix = _apt_install(package) if distribution else ""
            checks.append(Check(package, "optional", f"not installed; {use}", fix))
        else:
            checks.append(Check(package, "ok", found[package].version))
    return checks


def _apt_install(package: str) -> str:
    return f"sudo apt install ros-{os.environ['ROS_DISTRO']}-{package.replace('_', '-')}"


def _dds() -> list[Check]:
    rmw = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default)")
    checks = [Check("RMW", "ok", rmw)]
    if not rmw.startswith("rmw_fastrtps"):
        return checks
    configured = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if configured is None:
        profile = share_path("config", "dds", "fastdds_shm.xml")
        checks.append(Check("DDS profile", "ok", f"of this package, for large messages: {profile}"))
    elif Path(configured).is_file():
        checks.append(Check("DDS profile", "ok", configured))
    else:
        fix = "unset FASTDDS_DEFAULT_PROFILES_FILE"
        checks.append(Check("DDS profile", "missing", f"{configured}: no such file", fix))
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    enough = free > 256 << 20
    text = f"{free >> 20} MiB free in /dev/shm"
    fix = "" if enough else "sudo mount -o remount,size=1G /dev/shm"
    checks.append(Check("shared memory", "ok" if enough else "optional", text, fix))
    return checks


def _engines(found: Mapping[str, Imported]) -> list[Check]:
    """Devices and providers of the inference libraries."""
    checks = []
    onnxruntime = found["onnxruntime"]
    if onnxruntime.error:
        others = [name for name in ENGINES if not found[name].error]
        state: State = "optional" if others else "missing"
        fix = _pip_install("onnxruntime")
        checks.append(Check("onnxruntime", state, f"{onnxruntime.error} (networks)", fix))
    else:
        providers = ", ".join(onnxruntime.details["providers"])
        checks.append(Check("onnxruntime", "ok", f"{onnxruntime.version}: {providers}"))
    if not found["torch"].error:
        gpus = found["torch"].details["gpus"]
        text = ", ".join(gpus) or "none; networks run on the CPU"
        checks.append(Check("CUDA GPUs", "ok" if gpus else "optional", text))
    if not found["openvino"].error:
        devices = found["openvino"].details["devices"]
        text = ", ".join(f"{name} ({', '.join(p)})" for name, p in devices.items())
        checks.append(Check("OpenVINO devices", "ok", text))
    return [*checks, *(_tensorrt(found[name]) for name in TENSORRT)]


def _tensorrt(result: Imported) -> Check:
    """Whether a TensorRT library can run engines on this machine, or only build them."""
    name = result.module
    if result.error:
        rtx = name == "tensorrt_rtx"
        source = "for desktop GPUs, from PyPI" if rtx else "comes with JetPack, or from NVIDIA"
        fix = _pip_install("tensorrt-rtx-cu13") if rtx else ""
        return Check(name, "optional", f"{result.error}; {source}", fix)
    usable, text = result.details["usable"], f"{result.version}, {result.details['text']}"
    return Check(name, "ok" if usable else "optional", text)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
