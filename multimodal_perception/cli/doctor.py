"""Lists installed and missing software, with the command that installs each missing part."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from multimodal_perception import __version__
from multimodal_perception.resources import share_path

if TYPE_CHECKING:
    from multimodal_perception.rig import Rig

State = Literal["ok", "optional", "missing"]
INSTALL_COMMAND = "make env"
# Module, distribution, whether it is required, and its purpose.
PACKAGES = (
    ("numpy", "numpy", True, "arrays"),
    ("scipy", "scipy", True, "rotations"),
    ("cv2", "opencv-python-headless", True, "images"),
    ("numba", "numba", True, "point kernels"),
    ("yaml", "PyYAML", True, "configuration"),
    ("rosbags", "rosbags", True, "bags without ROS tools"),
    ("torch", "torch", False, "networks"),
    ("onnxruntime", "onnxruntime", False, "networks"),
    ("openvino", "openvino", False, "networks: the fastest engine on most CPUs"),
    ("safetensors", "safetensors", False, "weights of networks run by torch"),
    ("onnx", "onnx", False, "TensorRT at fp16 and int8"),
    ("open3d", "open3d-cpu", False, "simulation"),
    ("rerun", "rerun-sdk", False, ".rrd recordings"),
)
MESSAGE_PACKAGES = (
    "sensor_msgs",
    "nav_msgs",
    "visualization_msgs",
    "diagnostic_msgs",
    "lifecycle_msgs",
    "vision_msgs",
    "tf2_msgs",
)


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
    checks = [*_system(), *_packages(), *_ros(), *_dds(), *_backends()]
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


def _packages() -> list[Check]:
    checks = []
    for module, distribution, needed, purpose in PACKAGES:
        version = _import(module)
        fix = f"{sys.executable} -m pip install {distribution}"
        if version is None:
            state: State = "missing" if needed else "optional"
            checks.append(Check(module, state, f"not importable ({purpose})", fix))
        else:
            checks.append(Check(module, "ok", version))
    return checks


def _ros() -> list[Check]:
    version = _import("rclpy")
    distribution = os.environ.get("ROS_DISTRO")
    fix = "source /opt/ros/<distribution>/setup.bash, or " + INSTALL_COMMAND
    if version is None:
        return [Check("ROS 2", "missing", "rclpy is not importable", fix)]
    source = f"{distribution} (sourced)" if distribution else "from wheels"
    checks = [Check("ROS 2", "ok", f"rclpy {version}, {source}")]
    for package in MESSAGE_PACKAGES:
        try:
            module = importlib.import_module(f"{package}.msg")
        except ImportError as error:
            apt = f"sudo apt install ros-{distribution}-{package.replace('_', '-')}"
            fix = apt if distribution else INSTALL_COMMAND
            checks.append(Check(package, "missing", str(error), fix))
            continue
        if package in ("vision_msgs", "tf2_msgs"):
            in_underlay = str(module.__file__).startswith(sys.prefix) and not distribution
            checks.append(Check(package, "ok", "underlay" if in_underlay else "distribution"))
    for package in ("message_filters", "cv_bridge"):
        if _import(package) is None:
            text = "not installed; the package's own subscriptions and decoders are used"
            fix = f"sudo apt install ros-{distribution}-{package.replace('_', '-')}"
            checks.append(Check(package, "optional", text, fix if distribution else ""))
        else:
            checks.append(Check(package, "ok", "used" if package == "message_filters" else ""))
    return checks


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


def _backends() -> list[Check]:
    checks = []
    if _import("torch") is not None:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        state: State = "ok" if devices else "optional"
        checks.append(
            Check("CUDA GPUs", state, ", ".join(devices) or "none; networks run on the CPU")
        )
    if _import("onnxruntime") is not None:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        checks.append(Check("ONNX Runtime providers", "ok", providers))
    checks += _openvino_devices()
    return [*checks, *(_tensorrt(name) for name in ("tensorrt", "tensorrt_rtx"))]


def _openvino_devices() -> list[Check]:
    """The devices of OpenVINO and the precisions that they compute with; empty without OpenVINO."""
    from multimodal_perception.runtime.openvino import device_precisions, devices

    found = [f"{name} ({', '.join(device_precisions(name))})" for name in devices()]
    return [Check("OpenVINO devices", "ok", ", ".join(found))] if found else []


def _tensorrt(module: str) -> Check:
    """Whether a TensorRT library can run engines on this machine, or only build them."""
    from multimodal_perception.runtime.cuda import Gpu
    from multimodal_perception.runtime.engine import EngineError
    from multimodal_perception.runtime.tensorrt import Library

    if _import(module) is None:
        rtx = module == "tensorrt_rtx"
        source = "for desktop GPUs, from PyPI" if rtx else "comes with JetPack, or from NVIDIA"
        fix = f"{sys.executable} -m pip install tensorrt-rtx-cu13" if rtx else ""
        return Check(module, "optional", f"not installed; {source}", fix)
    try:
        library = Library(module)  # type: ignore[arg-type]
        gpu = Gpu()
    except EngineError as error:
        return Check(module, "optional", f"{_import(module)}, cannot run engines here: {error}")
    capability = ".".join(map(str, gpu.capability))
    supported = library.capabilities()
    if supported and gpu.capability not in supported:
        text = f"{library.version} does not support compute capability {capability} ({gpu.name})"
        return Check(module, "optional", text)
    return Check(module, "ok", f"{library.version} on {gpu.name}, compute capability {capability}")


def _import(module: str) -> str | None:
    """Version of a module, or None if it cannot be imported.

    Imports it in a separate process, because a broken native library can crash the process.
    """
    code = f"import {module}; print(getattr({module}, '__version__', ''))"
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return None
    if result.returncode:
        return None
    version = result.stdout.strip().splitlines()[-1:] or [""]
    return version[0] or _distribution_version(module)


def _distribution_version(module: str) -> str:
    for name in (module, module.replace("_", "-"), f"ros-{module.replace('_', '-')}"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
