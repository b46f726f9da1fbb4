"""Engines are ranked by time, wrong ones are not used, and the stored result is verified."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.runtime import selection
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import CheckedEngine, EngineError
from multimodal_perception.runtime.open_model import open_engine
from multimodal_perception.runtime.output_difference import output_differences
from multimodal_perception.runtime.selection import Candidate, Ranking, choose_engines
from multimodal_perception.runtime.settings import RuntimeConfig
from test.runtime import small_models as models

CARD = ModelCard("m", "none", {"x": TensorSpec((4,))}, {"y": TensorSpec((4,))}, "MIT")
FAST, SLOW, WRONG = (
    Candidate("openvino", "bf16", "CPU"),
    Candidate("onnxruntime"),
    Candidate("torch"),
)


@pytest.fixture(autouse=True)
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIMODAL_PERCEPTION_MEASURE", raising=False)
    monkeypatch.setattr(selection, "_measured", {})


class FakeBackend:
    device = "cpu"

    def __init__(self, name: str, function: Callable[[np.ndarray], np.ndarray], seconds: float):
        self.name, self.function, self.seconds = name, function, seconds

    def infer(self, arrays: Any) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"y": self.function(arrays["x"])}


class Opener:
    """Opens fake engines by candidate: (function, seconds per run); counts the calls."""

    def __init__(self, **engines: tuple[Callable[[np.ndarray], np.ndarray], float]) -> None:
        self.engines, self.calls = engines, 0

    def __call__(self, candidate: Candidate) -> CheckedEngine:
        self.calls += 1
        if candidate.engine not in self.engines:
            raise EngineError("not installed")
        function, seconds = self.engines[candidate.engine]
        backend = FakeBackend(candidate.engine, function, seconds)
        return CheckedEngine(backend, CARD.inputs, CARD.outputs)


def double(x: np.ndarray) -> np.ndarray:
    return 2 * x


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "candidates", lambda config: [FAST, SLOW, WRONG])


def config(tmp_path: Path, **values: Any) -> RuntimeConfig:
    return RuntimeConfig(**{"threads": 1, "cache": str(tmp_path), "device": "cpu", **values})


def opener() -> Opener:
    return Opener(
        openvino=(double, 0.0), onnxruntime=(double, 0.003), torch=(lambda x: 2.5 * x, 0.0)
    )


def test_the_fastest_engine_that_agrees_comes_first(candidates: None, tmp_path: Path) -> None:
    ranking = choose_engines(CARD, config(tmp_path), opener())
    assert ranking.order == (FAST, SLOW)
    assert ranking.milliseconds[FAST.label] < ranking.milliseconds[SLOW.label]
    assert ranking.reference == "onnxruntime fp32 on the CPU"
    assert "output y differs from the reference by 25.0 %" in ranking.rejected["torch"]
    assert ranking.differences["torch"] == pytest.approx(0.25)


def test_the_result_is_stored_and_read_without_opening_an_engine(
    candidates: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = choose_engines(CARD, config(tmp_path), opener())
    monkeypatch.setattr(selection, "_measured", {})
    other = opener()
    assert choose_engines(CARD, config(tmp_path), other) == first and other.calls == 0
    choose_engines(CARD, config(tmp_path, measure="always"), other)
    assert other.calls


def damaged(content: bytes) -> bytes:
    values = json.loads(content)
    values["result"]["order"].reverse()
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:50],
        lambda content: b"",
        lambda content: b"[]",
        lambda content: b'{"key": 1, "result": {}, "sha256": "0"}',
        damaged,
    ],
)
def test_a_damaged_result_is_measured_again(
    damage: Callable[[bytes], bytes],
    candidates: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    first = choose_engines(CARD, config(tmp_path), opener())
    (path,) = tmp_path.glob("measurements/*.json")
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(selection, "_measured", {})
    again = opener()
    assert choose_engines(CARD, config(tmp_path), again).order == first.order and again.calls
    assert "is damaged" in caplog.text


def test_another_version_of_an_engine_is_measured_again(
    candidates: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    choose_engines(CARD, config(tmp_path), opener())
    monkeypatch.setattr(selection.importlib.metadata, "version", lambda package: "99")
    again = opener()
    choose_engines(CARD, config(tmp_path), again)
    assert again.calls and "for another engines" in caplog.text


def test_a_folder_that_cannot_be_written_is_measured_once_per_process(
    candidates: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    first, again = opener(), opener()
    for engines in (first, again):
        choose_engines(CARD, config(tmp_path / "file"), engines)
    assert first.calls and not again.calls
    assert caplog.text.count("are not stored") == 1


def test_all_reasons_are_stated_if_no_engine_works(candidates: None, tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match="no engine computes the reference: onnxruntime: not inst"
    ):
        choose_engines(CARD, config(tmp_path), Opener())


def test_open_engine_uses_the_measured_order_and_states_it(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    card = models.save(tmp_path / "scatter", models.scatter_model())
    engine = open_engine(card, config(tmp_path / "cache"))
    values = engine.diagnostics()
    assert values["measured_ms.onnxruntime"] > 0 and "unavailable.torch" in values
    assert engine.run(models.scatter_arrays())["scores"].shape == (1, 5)
    listed = open_engine(card, config(tmp_path / "cache", order=("onnxruntime",)))
    assert listed.name == "onnxruntime" and "measured_ms.onnxruntime" not in listed.diagnostics()


def test_the_environment_variable_prevents_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIMODAL_PERCEPTION_MEASURE", "never")
    card = models.save(tmp_path / "scatter", models.scatter_model())
    engine = open_engine(card, config(tmp_path / "cache"))
    assert engine.precision == "fp32" and not list(tmp_path.glob("cache/measurements/*"))


def test_exchanged_rows_of_a_ranked_list_do_not_count_as_differences() -> None:
    outputs = {
        "scores": TensorSpec((1, 3)),
        "labels": TensorSpec((1, 3), "int64"),
        "boxes": TensorSpec((1, 3, 2)),
    }
    card = dataclasses.replace(CARD, outputs=outputs)
    reference = {
        "scores": np.array([[0.9, 0.5, 0.499]], np.float32),
        "labels": np.array([[0, 1, 0]]),
        "boxes": np.array([[[1, 1], [5, 5], [9, 9]]], np.float32),
    }
    exchanged = {name: array[:, [0, 2, 1]] for name, array in reference.items()}
    assert max(output_differences(card, reference, exchanged).values()) < 1e-6
    moved = {**reference, "boxes": reference["boxes"] + 3}
    assert output_differences(card, reference, moved)["boxes"] > 0.3


def test_a_ranking_of_another_package_version_is_not_read() -> None:
    assert selection._to_ranking({"order": [{"engine": "torch", "unknown": 1}]}) is None
    assert selection._to_ranking({"order": []}) is None
    stored = dataclasses.asdict(Ranking((SLOW,), {}, {}, {}, "torch"))
    assert selection._to_ranking(stored) == Ranking((SLOW,), {}, {}, {}, "torch")
