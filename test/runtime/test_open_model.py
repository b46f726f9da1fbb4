"""The first working engine is used, a failing one is replaced, and wrong outputs are never returned."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, TensorSpec, write_card
from multimodal_perception.runtime.engine import CheckedEngine, EngineError, InputError
from multimodal_perception.runtime.open_model import FallbackEngine, open_engine, open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from test.runtime import small_models as models

CARD = ModelCard("m", "none", {"x": TensorSpec((2,))}, {"y": TensorSpec((2,))}, "MIT")
FRAME = {"x": np.ones(2, np.float32)}


class FakeBackend:
    """A backend whose output is computed by `function`, which may raise."""

    device = "cpu"

    def __init__(self, name: str, function: Callable[[np.ndarray], Any]) -> None:
        self.name, self.function, self.calls = name, function, 0

    def infer(self, arrays: Any) -> dict[str, Any]:
        self.calls += 1
        return {"y": self.function(arrays["x"])}


def double(x: np.ndarray) -> np.ndarray:
    return 2 * x


def failing(error: Exception) -> Callable[[np.ndarray], Any]:
    def function(x: np.ndarray) -> Any:
        raise error

    return function


def engines(**functions: Any) -> tuple[FallbackEngine, dict[str, FakeBackend]]:
    """A FallbackEngine of fake backends; one whose function is an EngineError cannot be opened."""
    backends = {name: FakeBackend(name, function) for name, function in functions.items()}

    def factory(name: str) -> Callable[[], CheckedEngine]:
        def open_backend() -> CheckedEngine:
            if isinstance(functions[name], EngineError):
                raise functions[name]
            return CheckedEngine(backends[name], CARD.inputs, CARD.outputs)

        return open_backend

    return FallbackEngine(CARD, {name: factory(name) for name in functions}), backends


def test_first_working_engine_is_used_and_reasons_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    engine, backends = engines(a=EngineError("no GPU"), b=double, c=double)
    for _ in range(3):
        assert (engine.run(FRAME)["y"] == 2).all()
    assert (engine.name, engine.timings.runs, backends["c"].calls) == ("b", 3, 0)
    assert engine.diagnostics()["unavailable.a"] == "no GPU"
    assert not engine.degraded and engine.degraded_reason == ""
    assert sum("a is not used: no GPU" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (failing(MemoryError("CUDA out of memory")), "CUDA out of memory"),
        (failing(RuntimeError("")), "RuntimeError"),
        (lambda x: x * np.nan, "output y: 2 values are not finite"),
        (lambda x: np.ones(3, np.float32), r"output y: expected \[2\] float32, got \[3\] float32"),
        (lambda x: np.ones(2), r"expected \[2\] float32, got \[2\] float64"),
        (lambda x: None, "expected an array, got NoneType"),
    ],
)
def test_failing_engine_is_replaced_within_the_same_frame(
    function: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, backends = engines(a=function, b=double)
    for _ in range(3):
        assert (engine.run(FRAME)["y"] == 2).all()
    assert engine.name == "b" and engine.degraded and backends["a"].calls == 1
    assert engine.failed_frames == 0
    errors = [r.message for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 1 and "failed while running" in errors[0]
    assert re.search(words, engine.diagnostics()["unavailable.a"])
    assert engine.failed_engines == ["a"] and "m runs with b" in engine.degraded_reason


def test_invalid_inputs_raise_input_error_and_keep_the_engine() -> None:
    engine, backends = engines(a=double, b=double)
    for arrays, words in (
        ({}, "missing"),
        ({**FRAME, "z": FRAME["x"]}, "unknown"),
        ({"x": np.ones(3, np.float32)}, "input x: expected"),
        ({"x": np.array([np.nan, 1], np.float32)}, "input x: 1 values are not finite"),
        ({"x": np.array([np.inf, 1], np.float32)}, "input x: 1 values are not finite"),
    ):
        with pytest.raises(InputError, match=words):
            engine.run(arrays)
    assert engine.name == "a" and not engine.degraded and backends["a"].calls == 0


def test_retry_delay_grows_while_all_engines_fail() -> None:
    broken = {"now": True}

    def function(x: np.ndarray) -> np.ndarray:
        return x * np.nan if broken["now"] else 2 * x

    engine, backends = engines(a=function, b=failing(RuntimeError("lost the device")))
    for _ in range(12):
        with pytest.raises(EngineError):
            engine.run(FRAME)
    # Attempts in frames 0, 2 and 6 (delays of 1, 3, 7 frames); the other frames fail immediately.
    assert backends["a"].calls == backends["b"].calls == 3
    assert engine.failed_frames == 12 and engine.degraded
    assert "lost the device" in engine.degraded_reason
    broken["now"] = False
    with pytest.raises(EngineError):
        engine.run(FRAME)
    with pytest.raises(EngineError):
        engine.run(FRAME)
    assert (engine.run(FRAME)["y"] == 2).all()
    assert engine.name == "a" and not engine.degraded


def test_error_lists_all_reasons_if_no_engine_works() -> None:
    with pytest.raises(EngineError, match=r"a: no GPU; b: not installed"):
        engines(a=EngineError("no GPU"), b=EngineError("not installed"))


def test_open_model_error_names_the_card(tmp_path: Path) -> None:
    specs = {"inputs": CARD.inputs, "outputs": CARD.outputs}
    card = models.save(tmp_path / "log", models.log_model(), **specs)
    assert open_model(card, RuntimeConfig(order=("onnxruntime",))).name == "onnxruntime"
    (tmp_path / "log" / "model.onnx").write_bytes(b"no network")
    card = write_card(tmp_path / "log", card, onnx="model.onnx")
    with pytest.raises(UserError, match=rf"^{re.escape(str(card.source))}: .*onnxruntime: "):
        open_model(card, RuntimeConfig(order=("onnxruntime",)))


def test_non_finite_output_of_a_real_network_raises(tmp_path: Path) -> None:
    specs = {"inputs": CARD.inputs, "outputs": CARD.outputs}
    card = models.save(tmp_path / "log", models.log_model(), **specs)
    engine = open_engine(card, RuntimeConfig(order=("onnxruntime",)))
    assert (engine.run(FRAME)["y"] == 0).all()
    with pytest.raises(EngineError, match="output y: 1 values are not finite"):
        engine.run({"x": np.array([-1, 1], np.float32)})
