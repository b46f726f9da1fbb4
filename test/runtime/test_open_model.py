"""The first engine that works runs; a failing one is replaced, and nothing wrong comes out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import CheckedEngine, EngineError, InputError
from multimodal_perception.runtime.open_model import FallbackEngine, open_engine, open_model
from multimodal_perception.runtime.settings import RuntimeConfig
from test.runtime import small_models as models

CARD = ModelCard("m", "none", {"x": TensorSpec((2,))}, {"y": TensorSpec((2,))}, "MIT")
FRAME = {"x": np.ones(2, np.float32)}


class Scripted:
    """A backend that answers with what `answer` returns or raises."""

    device = "cpu"

    def __init__(self, name: str, answer: Callable[[np.ndarray], Any]) -> None:
        self.name, self.answer, self.calls = name, answer, 0

    def infer(self, arrays: Any) -> dict[str, Any]:
        self.calls += 1
        return {"y": self.answer(arrays["x"])}


def right(x: np.ndarray) -> np.ndarray:
    return 2 * x


def failing(error: Exception) -> Callable[[np.ndarray], Any]:
    def answer(x: np.ndarray) -> Any:
        raise error

    return answer


def engines(**answers: Any) -> tuple[FallbackEngine, dict[str, Scripted]]:
    """A fallback over scripted backends; an answer that is an EngineError fails at opening."""
    backends = {name: Scripted(name, answer) for name, answer in answers.items()}

    def opener(name: str) -> Callable[[], CheckedEngine]:
        def open_it() -> CheckedEngine:
            if isinstance(answers[name], EngineError):
                raise answers[name]
            return CheckedEngine(backends[name], CARD.inputs, CARD.outputs)

        return open_it

    return FallbackEngine(CARD, {name: opener(name) for name in answers}), backends


def test_the_first_that_works_is_used_and_the_reasons_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    engine, backends = engines(a=EngineError("no GPU"), b=right, c=right)
    for _ in range(3):
        assert (engine.run(FRAME)["y"] == 2).all()
    assert (engine.name, engine.timings.runs, backends["c"].calls) == ("b", 3, 0)
    assert engine.state["not_used.a"] == "no GPU" and not engine.degraded
    assert sum("a is not used: no GPU" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (failing(MemoryError("CUDA out of memory")), "CUDA out of memory"),
        (failing(RuntimeError("")), "RuntimeError"),
        (lambda x: x * np.nan, "output y: 2 values are not finite"),
        (lambda x: np.ones(3, np.float32), r"output y: expected \[2\] float32, got \[3\] float32"),
        (lambda x: np.ones(2), r"expected \[2\] float32, got \[2\] float64"),
        (lambda x: None, "expected an array, got NoneType"),
    ],
)
def test_a_failing_engine_is_replaced_in_the_same_frame(
    answer: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, backends = engines(a=answer, b=right)
    for _ in range(3):
        assert (engine.run(FRAME)["y"] == 2).all()
    assert engine.name == "b" and engine.degraded and backends["a"].calls == 1
    assert engine.frames_lost == 0
    errors = [r.message for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 1 and "failed while running" in errors[0]
    assert re.search(words, engine.state["not_used.a"])


def test_wrong_inputs_are_the_caller_s_fault_and_cost_no_engine() -> None:
    engine, backends = engines(a=right, b=right)
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


def test_a_frame_that_none_can_do_is_lost_and_pauses_grow() -> None:
    broken = {"now": True}

    def answer(x: np.ndarray) -> np.ndarray:
        return x * np.nan if broken["now"] else 2 * x

    engine, backends = engines(a=answer, b=failing(RuntimeError("lost the device")))
    for _ in range(12):
        with pytest.raises(EngineError):
            engine.run(FRAME)
    # Tried in frames 0, 2, 6 (pauses of 1, 3, 7), at once refused between.
    assert backends["a"].calls == backends["b"].calls == 3
    assert engine.frames_lost == 12 and engine.degraded
    broken["now"] = False
    with pytest.raises(EngineError):
        engine.run(FRAME)
    with pytest.raises(EngineError):
        engine.run(FRAME)
    assert (engine.run(FRAME)["y"] == 2).all()
    assert engine.name == "a" and not engine.degraded


def test_nothing_works_is_one_error_with_all_reasons() -> None:
    with pytest.raises(EngineError, match=r"a: no GPU; b: not installed"):
        engines(a=EngineError("no GPU"), b=EngineError("not installed"))


def test_a_chosen_model_that_nothing_runs_is_an_error_that_names_its_card(tmp_path: Path) -> None:
    specs = {"inputs": CARD.inputs, "outputs": CARD.outputs}
    card = models.save(tmp_path / "log", models.log_model(), **specs)
    assert open_model(card, RuntimeConfig(order=("onnxruntime",))).name == "onnxruntime"
    (tmp_path / "log" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match=rf"^{re.escape(str(card.source))}: .*onnxruntime: "):
        open_model(card, RuntimeConfig(order=("onnxruntime",)))


def test_an_input_gone_wrong_inside_a_real_network_is_never_an_answer(tmp_path: Path) -> None:
    specs = {"inputs": CARD.inputs, "outputs": CARD.outputs}
    card = models.save(tmp_path / "log", models.log_model(), **specs)
    engine = open_engine(card, RuntimeConfig(order=("onnxruntime",)))
    assert (engine.run(FRAME)["y"] == 0).all()
    with pytest.raises(EngineError, match="output y: 1 values are not finite"):
        engine.run({"x": np.array([-1, 1], np.float32)})
