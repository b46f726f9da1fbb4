"""A fusion detector whose first engine always fails and whose second engine fails once."""

from __future__ import annotations

from typing import Any

from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError, Timings
from multimodal_perception.runtime.open_model import FallbackEngine
from multimodal_perception.runtime.settings import RuntimeConfig


class FailingEngine:
    """Raises EngineError at the first `failures` runs, then uses another engine."""

    def __init__(self, name: str, engine: Any, failures: int) -> None:
        self.name, self.device = name, "cpu"
        self.timings = Timings()
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._engine, self._failures = engine, failures

    def warm_up(self, runs: int = 2) -> None:
        pass

    def run(self, arrays: Any) -> Any:
        if self._failures > 0:
            self._failures -= 1
            raise EngineError("out of memory")
        return self._engine.run(arrays)


class FailingFusionDetector(BevFusionDetector):
    def __init__(self) -> None:
        runtime = RuntimeConfig(device="cpu", order=("onnxruntime",))
        super().__init__(FusionConfig(refinement="none"), runtime)
        working = self.proposal_network
        engines = {
            "first": lambda: FailingEngine("first", working, 1_000_000),
            "second": lambda: FailingEngine("second", working, 1),
        }
        self.proposal_network = FallbackEngine(load_card("bev_fusion"), engines)  # type: ignore[arg-type]
