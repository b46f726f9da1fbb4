"""Parameters of the inference runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

EngineName = Literal["tensorrt", "tensorrt_rtx", "onnxruntime", "torch"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class RuntimeConfig:
    """Parameters of the inference engines that run all networks.

    Attributes:
        order: Inference engines in order of preference. The first one that works runs the network, and
            the others are its fallback when it fails. Change the order to prefer another engine; remove
            the engines that you do not want to be tried.
        device: Device of the engines: `auto` uses a GPU if one is available, `cpu` and `cuda` force one
            device. Set it to `cuda` to make a missing GPU an error, or to `cpu` to keep the GPU free
            for other programs.
        gpu: Index of the CUDA device that runs the networks. Change it on a computer with several GPUs.
        precision: Numerical precision of TensorRT engines and, for `fp16`, of ONNX Runtime's TensorRT
            provider; all other engines use fp32. Use `fp16` for lower latency at nearly the same
            accuracy. Use `int8` only with a model that was calibrated by
            `multimodal-perception export engine --calibrate`.
        threads: Number of CPU threads of ONNX Runtime and PyTorch; 0 uses all cores that the process
            may use. Decrease it if other nodes on the same computer need CPU time.
        cache: Folder where built TensorRT engines are stored; if empty, the user's cache folder
            (`~/.cache/multimodal_perception/engines`) is used. Set it if the home folder is read-only or
            if several users share the built engines.
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

    order: tuple[EngineName, ...] = ("tensorrt", "tensorrt_rtx", "onnxruntime", "torch")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu: int = field(default=0, metadata={"min": 0, "max": 63})
    precision: Precision = "fp32"
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

    @property
    def cache_folder(self) -> Path:
        """The folder of built engines."""
        if self.cache:
            return Path(self.cache).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "multimodal_perception" / "engines"
