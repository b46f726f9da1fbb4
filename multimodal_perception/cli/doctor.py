"""What this machine has, what it lacks, and the command that mends each lack."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from multimodal_perception import __version__
from multimodal_perception.resources import share_path

State = Literal["ok", "optional", "missing"]
MEND = "make env"
# Module, distribution, whether the main job needs it, and what it is for.
PACKAGES = (
    ("numpy", "numpy", True, "arrays"),
    ("scipy", "scipy", True, "rotations"),
    ("cv2", "opencv-python-headless", True, "images"),
    ("numba", "numba", True, "point kernels"),
    ("yaml", "PyYAML", True, "configuration"),
    ("rosbags", "rosbags", True, "bags without ROS tools"),
    ("torch", "torch", False, "networks"),
    ("onnxruntime", "onnxruntime", False, "networks"),
    ("safetensors", "safetensors", False, "networks by torch"),
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
class Finding:
    """One line: what was looked for, how it stands, what was found, and the command that mends it."""

    subject: str
    state: State
    found: str
    mend: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rig", help="also check this rig file")


def run(args: argparse.Namespace) -> int:
    findings = [*_system(), *_packages(), *_ros(), *_dds(), *_backends()]
    table = Table(title=f"multimodal_perception {__version__}")
    for column in ("what", "state", "found", "mend with"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "optional": "yellow", "missing": "red"}
    for f in findings:
        table.add_row(f.subject, f"[{colours[f.state]}]{f.state}[/]", f.found, f.mend)
    console = Console()
    console.print(table)
    if args.rig:
        from multimodal_perception.rig import load_rig, rig_path

        rig = load_rig(rig_path(args.rig))
        console.print(f"rig {rig.name}: {', '.join(rig.sensors)}")
    broken = [f.subject for f in findings if f.state == "missing"]
    if broken:
        console.print(f"[red]the main job cannot run without: {', '.join(broken)}[/]")
        return 1
    console.print("[green]the main job can run[/]")
    return 0


def _system() -> list[Finding]:
    version = platform.python_version()
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    found = f"{version} in {sys.prefix}"
    mend = "" if supported else "use Python 3.10, 3.11 or 3.12"
    return [
        Finding("Python", "ok" if supported else "missing", found, mend),
        Finding("machine", "ok", f"{platform.machine()}, {os.cpu_count()} cores, {_os_name()}"),
    ]


def _packages() -> list[Finding]:
    findings = []
    for module, distribution, needed, purpose in PACKAGES:
        version = _import(module)
        mend = f"{sys.executable} -m pip install {distribution}"
        if version is None:
            state: State = "missing" if needed else "optional"
            findings.append(Finding(module, state, f"not importable ({purpose})", mend))
        else:
            findings.append(Finding(module, "ok", version))
    return findings


def _ros() -> list[Finding]:
    version = _import("rclpy")
    distribution = os.environ.get("ROS_DISTRO")
    mend = "source /opt/ros/<distribution>/setup.bash, or " + MEND
    if version is None:
        return [Finding("ROS 2", "missing", "rclpy is not importable", mend)]
    source = f"{distribution} (sourced)" if distribution else "from wheels"
    findings = [Finding("ROS 2", "ok", f"rclpy {version}, {source}")]
    for package in MESSAGE_PACKAGES:
        try:
            module = importlib.import_module(f"{package}.msg")
        except ImportError as error:
            apt = f"sudo apt install ros-{distribution}-{package.replace('_', '-')}"
            mend = apt if distribution else MEND
            findings.append(Finding(package, "missing", str(error), mend))
            continue
        if package in ("vision_msgs", "tf2_msgs"):
            inside = str(module.__file__).startswith(sys.prefix) and not distribution
            findings.append(Finding(package, "ok", "underlay" if inside else "distribution"))
    for package in ("message_filters", "cv_bridge"):
        if _import(package) is None:
            text = "not installed; plain subscriptions and our own decoding are used"
            mend = f"sudo apt install ros-{distribution}-{package.replace('_', '-')}"
            findings.append(Finding(package, "optional", text, mend if distribution else ""))
        else:
            findings.append(Finding(package, "ok", "used" if package == "message_filters" else ""))
    return findings


def _dds() -> list[Finding]:
    rmw = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default)")
    findings = [Finding("RMW", "ok", rmw)]
    if not rmw.startswith("rmw_fastrtps"):
        return findings
    chosen = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if chosen is None:
        ours = share_path("config", "dds", "fastdds_shm.xml")
        findings.append(Finding("DDS profile", "ok", f"ours, for large messages: {ours}"))
    elif Path(chosen).is_file():
        findings.append(Finding("DDS profile", "ok", chosen))
    else:
        mend = "unset FASTDDS_DEFAULT_PROFILES_FILE"
        findings.append(Finding("DDS profile", "missing", f"{chosen}: no such file", mend))
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    enough = free > 256 << 20
    text = f"{free >> 20} MiB free in /dev/shm"
    mend = "" if enough else "sudo mount -o remount,size=1G /dev/shm"
    findings.append(Finding("shared memory", "ok" if enough else "optional", text, mend))
    return findings


def _backends() -> list[Finding]:
    findings = []
    if _import("torch") is not None:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        state: State = "ok" if devices else "optional"
        findings.append(Finding("CUDA GPUs", state, ", ".join(devices) or "none; the CPU is used"))
    if _import("onnxruntime") is not None:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        findings.append(Finding("ONNX Runtime providers", "ok", providers))
    return [*findings, *(_tensorrt(name) for name in ("tensorrt", "tensorrt_rtx"))]


def _tensorrt(module: str) -> Finding:
    """Whether engines of a TensorRT library can run here, or only be built, and why not."""
    from multimodal_perception.runtime.cuda import Gpu
    from multimodal_perception.runtime.engine import EngineError
    from multimodal_perception.runtime.tensorrt import Library

    if _import(module) is None:
        rtx = module == "tensorrt_rtx"
        source = "for desktop GPUs, from PyPI" if rtx else "comes with JetPack, or from NVIDIA"
        mend = f"{sys.executable} -m pip install tensorrt-rtx-cu13" if rtx else ""
        return Finding(module, "optional", f"not installed; {source}", mend)
    try:
        library = Library(module)  # type: ignore[arg-type]
        gpu = Gpu()
    except EngineError as error:
        return Finding(module, "optional", f"{_import(module)}, runs nothing here: {error}")
    capability = ".".join(map(str, gpu.capability))
    known = library.capabilities()
    if known and gpu.capability not in known:
        text = f"{library.version} knows no compute capability {capability} ({gpu.name})"
        return Finding(module, "optional", text)
    return Finding(
        module, "ok", f"{library.version} on {gpu.name}, compute capability {capability}"
    )


def _import(module: str) -> str | None:
    """Version of a module, or None where it cannot be imported; in a process of its own.

    A broken native library can end the process that imports it.
    """
    code = f"import {module}; print(getattr({module}, '__version__', ''))"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode:
        return None
    version = answer.stdout.strip().splitlines()[-1:] or [""]
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
