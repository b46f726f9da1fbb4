"""Parameters of the runtime."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

EngineName = Literal["tensorrt", "tensorrt_rtx", "onnxruntime", "torch"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class RuntimeConfig:
    """What runs the networks.

    order: engines, best first; the first that works is used and the others are its fallback.
    device: auto takes a GPU where there is one. gpu: its number. precision: of TensorRT engines; int8
    needs a calibrated model (export engine --calibrate). threads: of the CPU engines; 0 is all
    cores. cache: folder of built engines; empty is the user's cache folder. build: whether a missing
    TensorRT engine is built at start, which takes minutes on a small machine. workspace_mib: memory
    that TensorRT may use while building. dla_core: accelerator core of a Jetson; -1 is none.
    cuda_graph: capture TensorRT's launches once and replay them. warm_up: runs before the first
    frame.
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
        """Where built engines lie."""
        if self.cache:
            return Path(self.cache).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "multimodal_perception" / "engines"
