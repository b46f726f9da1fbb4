"""Copies, launches, CUDA graphs and memory of a TensorRT engine, on a fake driver in host memory.

The fake driver is a compiled C library, so that the ctypes calls, addresses and lifetimes are real.
The network is a stub that doubles its input.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from multimodal_perception.runtime import tensorrt
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.cuda import Gpu, gpu_present
from multimodal_perception.runtime.engine import CheckedEngine, EngineError
from multimodal_perception.runtime.open_model import FallbackEngine
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.tensorrt import Target, TensorRTBackend

SHAPE = (2, 3, 4)
CARD = ModelCard("m", "none", {"x": TensorSpec(SHAPE)}, {"y": TensorSpec(SHAPE)}, "MIT")


@pytest.fixture(scope="module")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("driver") / "libhost.so"
    source = Path(__file__).with_name("host_driver.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
    return str(path)


class Driver:
    """Access to the counters of the compiled driver."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)

    def __getitem__(self, name: str) -> int:
        return ctypes.c_int.in_dll(self.library, f"host_{name}").value

    def __setitem__(self, name: str, value: int) -> None:
        ctypes.c_int.in_dll(self.library, f"host_{name}").value = value


class Context:
    """TensorRT's execution context of a network that doubles its input."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.double = library.host_double
        self.double.argtypes = (ctypes.c_ulonglong, ctypes.c_ulonglong, ctypes.c_size_t)
        self.addresses: dict[str, int] = {}
        self.calls = 0
        self.works = True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream != 0
        self.calls += 1
        self.double(self.addresses["y"], self.addresses["x"], int(np.prod(SHAPE)))
        return self.works


@pytest.fixture
def driver(library_path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake driver, with TensorRT replaced by a stub that runs on it."""
    driver = Driver(library_path)
    for name in ("launches", "fail_capture"):
        driver[name] = 0
    driver["free_bytes"] = 1 << 20
    context = Context(driver.library)
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda plan: SimpleNamespace(
            create_execution_context=lambda: context
        )
    )
    library = SimpleNamespace(
        trt=SimpleNamespace(Runtime=lambda logger: runtime),
        logger=None,
        target=lambda gpu: Target(gpu.name, gpu.capability),
        error=EngineError,
    )
    monkeypatch.setattr(tensorrt, "Library", lambda name: library)
    monkeypatch.setattr(tensorrt, "plan_for", lambda *arguments: b"plan")
    monkeypatch.setattr(tensorrt, "Gpu", functools.partial(Gpu, library=library_path))
    gc.collect()
    before = driver["live"]
    yield SimpleNamespace(driver=driver, context=context)
    gc.collect()
    assert driver["live"] == before, "GPU memory, stream or graph was not freed"


def frame(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)}


def test_gpu_name_and_capability_come_from_the_driver(library_path: str) -> None:
    gpu = Gpu(0, library_path)
    assert (gpu.name, gpu.capability) == ("Host", (8, 9))
    with pytest.raises(EngineError, match=r"cuDeviceGet: CUDA_ERROR_INVALID_DEVICE \(101\)"):
        Gpu(1, library_path)
    assert gpu_present(0, library_path) and not gpu_present(1, library_path)


def test_missing_and_outdated_driver_give_different_errors() -> None:
    with pytest.raises(EngineError, match=r"no NVIDIA driver \(libno_such\.so\)"):
        Gpu(0, "libno_such.so")
    with pytest.raises(EngineError, match=r"too old .*cuInit"):
        Gpu(0, "libc.so.6")
    assert not gpu_present(0, "libno_such.so")


@pytest.mark.parametrize("graph", [True, False])
def test_inference_with_and_without_cuda_graph(driver: Any, graph: bool) -> None:
    config = RuntimeConfig(cuda_graph=graph)
    engine = CheckedEngine(TensorRTBackend("tensorrt", CARD, config), CARD.inputs, CARD.outputs)
    assert engine.device == "cuda:0 (Host)"
    results = [engine.run(frame(seed))["y"] for seed in range(5)]
    for seed, y in enumerate(results):  # separate arrays that later frames do not overwrite
        np.testing.assert_array_equal(y, 2 * frame(seed)["x"])
    # With a graph: one normal run, one capture, then only replays.
    assert (driver.context.calls, driver.driver["launches"]) == ((2, 4) if graph else (5, 0))


def test_failed_graph_capture_continues_without_graph(driver: Any) -> None:
    driver.driver["fail_capture"] = 1
    backend = TensorRTBackend("tensorrt", CARD, RuntimeConfig())
    for seed in range(3):
        np.testing.assert_array_equal(backend.infer(frame(seed))["y"], 2 * frame(seed)["x"])
    assert driver.context.calls == 3 and driver.driver["launches"] == 0


def test_fortran_ordered_input_is_copied_correctly(driver: Any) -> None:
    backend = TensorRTBackend("tensorrt", CARD, RuntimeConfig())
    x = np.asfortranarray(frame(0)["x"])
    np.testing.assert_array_equal(backend.infer({"x": x})["y"], 2 * x)


def test_out_of_gpu_memory_falls_back_to_the_next_engine(driver: Any) -> None:
    driver.driver["free_bytes"] = 16

    def on_gpu() -> CheckedEngine:
        backend = TensorRTBackend("tensorrt", CARD, RuntimeConfig())
        return CheckedEngine(backend, CARD.inputs, CARD.outputs)

    class OnCpu:
        name, device = "onnxruntime", "cpu"

        def infer(self, arrays: Any) -> dict[str, np.ndarray]:
            return {"y": 2 * arrays["x"]}

    def on_cpu() -> CheckedEngine:
        return CheckedEngine(OnCpu(), CARD.inputs, CARD.outputs)

    engine = FallbackEngine(CARD, {"tensorrt": on_gpu, "onnxruntime": on_cpu})
    np.testing.assert_array_equal(engine.run(frame(0))["y"], 2 * frame(0)["x"])
    assert engine.name == "onnxruntime"
    assert "CUDA_ERROR_OUT_OF_MEMORY" in engine.unavailable["tensorrt"]


def test_failed_enqueue_raises(driver: Any) -> None:
    backend = TensorRTBackend("tensorrt", CARD, RuntimeConfig())
    driver.context.works = False
    with pytest.raises(EngineError, match="could not be enqueued"):
        backend.infer(frame(0))


def test_tensorrt_on_cpu_raises() -> None:
    with pytest.raises(EngineError, match="needs a GPU"):
        TensorRTBackend("tensorrt_rtx", CARD, RuntimeConfig(device="cpu"))
