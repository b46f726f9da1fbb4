"""Imports modules and prints what was found: the processes of `doctor`.

A broken native library can crash the process that imports it, so that the modules are imported by worker
processes. Each imports several modules, which share their dependencies.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

WORKER = "multimodal_perception.cli.import_worker"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Imported:
    """Result for one module.

    error: reason if it cannot be imported. version: may be empty. file: of the module. details: devices,
    providers and the like of an inference library, see DETAILS.
    """

    module: str
    version: str = ""
    error: str = ""
    file: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def import_modules(groups: Sequence[Sequence[str]]) -> dict[str, Imported]:
    """Import modules in one process for each group, all at the same time. Returns results by module."""
    found: dict[str, Imported] = {}
    running = [(list(group), _start(group)) for group in groups if group]
    end_s = time.monotonic() + TIMEOUT_S
    while running:
        group, process = running.pop(0)
        try:
            output, _ = process.communicate(timeout=max(end_s - time.monotonic(), 1.0))
            problem = f"its import ended the process with status {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            problem = f"its import takes more than {TIMEOUT_S:.0f} s"
        for line in output.splitlines():
            result = Imported(**json.loads(line))
            found[result.module] = result
        missing = [name for name in group if name not in found]
        if missing:  # the worker ended while it imported the first of them
            found[missing[0]] = Imported(missing[0], error=problem)
            if missing[1:]:
                running.append((missing[1:], _start(missing[1:])))
                end_s = time.monotonic() + TIMEOUT_S
    return found


def _start(modules: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", WORKER, *modules]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    )


def _import(name: str) -> Imported:
    try:
        module = importlib.import_module(name)
        details = DETAILS[name]() if name in DETAILS else {}
    except Exception as error:  # a module can raise any error when it is imported
        lines = str(error).strip().splitlines()
        return Imported(name, error=lines[0] if lines else type(error).__name__)
    version = str(getattr(module, "__version__", "") or distribution_version(name))
    return Imported(name, version, "", str(getattr(module, "__file__", "") or ""), details)


def distribution_version(module: str) -> str:
    """Version of the distribution with the name of a module; empty if there is none."""
    for name in (module, module.replace("_", "-"), f"ros-{module.replace('_', '-')}"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _torch() -> dict[str, Any]:
    import torch

    return {"gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}


def _onnxruntime() -> dict[str, Any]:
    import onnxruntime

    return {"providers": onnxruntime.get_available_providers()}


def _openvino() -> dict[str, Any]:
    from multimodal_perception.runtime.openvino import device_precisions, devices

    return {"devices": {name: device_precisions(name) for name in devices()}}


def _tensorrt(name: Any) -> dict[str, Any]:
    """Whether a TensorRT library can run engines on this machine, or only build them."""
    from multimodal_perception.runtime.cuda import Gpu
    from multimodal_perception.runtime.engine import EngineError
    from multimodal_perception.runtime.tensorrt import Library

    try:
        library = Library(name)
        gpu = Gpu()
    except EngineError as error:
        return {"usable": False, "text": f"cannot run engines here: {error}"}
    capability = ".".join(map(str, gpu.capability))
    supported = library.capabilities()
    if supported and gpu.capability not in supported:
        text = f"does not support compute capability {capability} ({gpu.name})"
        return {"usable": False, "text": text}
    return {"usable": True, "text": f"on {gpu.name}, compute capability {capability}"}


DETAILS = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "tensorrt_rtx": lambda: _tensorrt("tensorrt_rtx"),
}


def main(modules: Sequence[str], output: IO[str]) -> None:
    """Import the modules and write a JSON line for each one."""
    for name in modules:
        output.write(json.dumps(asdict(_import(name))) + "\n")
        output.flush()


if __name__ == "__main__":
    # Libraries print to standard output; the results must be alone there.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(sys.argv[1:], results)
    results.flush()
    os._exit(0)  # destructors of libraries take time, and some crash
