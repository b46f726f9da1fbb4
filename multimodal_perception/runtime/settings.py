"""Parameters of the inference runtime."""

from __future__ import annotations

import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

EngineName = Literal["tensorrt", "tensorrt_rtx", "openvino", "onnxruntime", "torch"]
# All engines, in the order that is used without a measurement.
ENGINES: tuple[EngineName, ...] = typing.get_args(EngineName)
Precision = Literal["fp32", "bf16", "fp16", "int8"]
# Values of the parameters: `auto` leaves the choice to a measurement.
EngineChoice = Literal["auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime", "torch"]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Measure = Literal["once", "always", "never"]
MEASURE_VARIABLE = "MULTIMODAL_PERCEPTION_MEASURE"


@dataclass(frozen=True)
class RuntimeConfig:
    """Parameters of the inference engines that run all networks.

    Attributes:
        order: Inference engines in order of preference; `auto` measures all installed engines and takes
            the fastest one whose outputs agree with the reference. The first engine that works runs
            the network, and the others are its fallback when it fails. Set it to a list of engines to
            choose without a measurement, or to leave out engines that must not be tried.
        device: Device of the engines: `auto` uses a GPU if one is available, `cpu` and `cuda` force one
            device. Set it to `cuda` to make a missing GPU an error, or to `cpu` to keep the GPU free
            for other programs.
        openvino_device: Device of the engine `openvino`: `CPU`, `GPU` or `GPU.1` for an Intel GPU,
            `NPU`, or `auto`. With `auto`, `order: [auto]` measures every device that OpenVINO finds,
            and a list of engines uses the CPU. Set it to `GPU` or `NPU` to keep the CPU free for the
            other stages.
        gpu: Index of the CUDA device that runs the networks. Change it on a computer with several GPUs.
        precision: Numerical precision of the networks. `auto` with `order: [auto]` also measures
            bfloat16 and float16 on devices that compute with them, and uses fp32 otherwise; an engine
            without the selected precision runs in fp32. Set it to `fp32` for results that are the same
            on every computer; use `int8` only with a model that was calibrated by
            `multimodal-perception export int8`.
        measure: When `order: [auto]` measures the engines: `once` per computer, model and set of
            installed engines, `always` at every start, or `never`, which uses the engines in their
            fixed order in fp32. Set it to `never` on a vehicle whose start time must not depend on a
            measurement; set it to `always` after a change of the hardware that is not detected. The
            environment variable MULTIMODAL_PERCEPTION_MEASURE replaces it, for example in tests.
        threads: Number of CPU threads of OpenVINO, ONNX Runtime and PyTorch; 0 uses all cores that the
            process may use. Decrease it if other nodes on the same computer need CPU time.
        cache: Folder where built engines, calibrated models and measurements are stored; if empty, the
            user's cache folder (`~/.cache/multimodal_perception/engines`) is used. Set it if the home
            folder is read-only or if several users share the built engines.
        build: If true, a TensorRT engine that is missing in the cache is built at start, which takes
            minutes on a small computer. Disable it on a vehicle whose engines are built beforehand
            with `multimodal-perception export engine`, so that the start time is predictable.
        workspace_mib: Upper limit of the GPU memory that TensorRT uses for temporary data while it
            builds and runs an engine. Decrease it if building fails because memory runs out on a small
            device; larger values allow faster layer implementations.
        dla_core: Index of the deep learning accelerator (DLA) core of a Jetson that runs the supported
            layers; -1 uses the GPU only. Set it to 0 or 1 to free the GPU; it needs the engine
            `tensorrt` and the precision `fp16` or `int8`.
        cuda_graph: If true, TensorRT's kernel launches are captured once in a CUDA graph and replayed,
            which lowers the CPU load per frame. Disable it if a profiler or a driver problem requires
            separate launches.
        warm_up: Number of runs on zeros after an engine is opened, so that the first frame is not
            delayed by initialisation. Increase it if the first frames are still slow; set it to 0 for a
            faster start.
    """

    order: tuple[EngineChoice, ...] = ("auto",)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    openvino_device: str = "auto"
    gpu: int = field(default=0, metadata={"min": 0, "max": 63})
    precision: PrecisionChoice = "auto"
    measure: Measure = "once"
    threads: int = field(default=0, metadata={"min": 0, "max": 256})
    cache: str = ""
    build: bool = True
    workspace_mib: int = field(default=1024, metadata={"min": 16, "max": 65536, "unit": "MiB"})
    dla_core: int = field(default=-1, metadata={"min": -1, "max": 7})
    cuda_graph: bool = True
    warm_up: int = field(default=2, metadata={"min": 0, "max": 100})

    def __post_init__(self) -> None:
        if not self.order or len(set(self.order)) != len(self.order):
            raise ValueError("order must name each engine once, and at least one")
        if "auto" in self.order and len(self.order) > 1:
            raise ValueError("order: auto must be the only entry")
        if not re.fullmatch(r"auto|CPU|NPU|GPU(\.\d{1,2})?", self.openvino_device):
            raise ValueError(
                f"openvino_device: {self.openvino_device!r}; allowed: auto, CPU, GPU, GPU.N, NPU"
            )

    @property
    def measuring(self) -> Measure:
        """`measure`, or the value of the environment variable if that is valid."""
        value = os.environ.get(MEASURE_VARIABLE, "")
        return value if value in typing.get_args(Measure) else self.measure  # type: ignore[return-value]

    @property
    def automatic(self) -> bool:
        """Whether the engines are chosen by measurement."""
        return self.order == ("auto",) and self.measuring != "never"

    @property
    def engines(self) -> tuple[EngineName, ...]:
        """The engines that may be used, in order of preference without a measurement."""
        if self.order == ("auto",):
            return ENGINES
        return tuple(name for name in self.order if name != "auto")

    @property
    def engine_precision(self) -> Precision:
        """The precision of an engine that is opened without a measurement."""
        return "fp32" if self.precision == "auto" else self.precision

    @property
    def cache_folder(self) -> Path:
        """The folder of built engines."""
        if self.cache:
            return Path(self.cache).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "multimodal_perception" / "engines"
