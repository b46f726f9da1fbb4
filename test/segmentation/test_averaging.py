"""Masks from the mean probability of mirrored images and of several networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.images.rgb_thermal_inputs import RgbThermalSegmenterConfig
from multimodal_perception.runtime.card import load_card, write_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.averaging import mean_logits, mirror_columns
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter
from multimodal_perception.simulation.simulation import Observation
from test.image_pair import CAMERA, resized

CARD = load_card("segmentation")


class PositionEngine:
    """Logit of class 0: the column, plus the mean brightness of the pixel; all others are 0."""

    name, device, precision = "position", "cpu", "fp32"
    inputs = CARD.inputs

    def __init__(self, slope: float, brightness: float) -> None:
        self.slope, self.brightness, self.runs = slope, brightness, 0

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.runs += 1
        logits = np.zeros((1, 10, 128, 224), np.float32)
        logits[:, 0] = self.slope * np.arange(224)
        logits[:, 0] += self.brightness * arrays["visible"][:, :, ::2, ::2].mean(1)
        return {"logits": logits}


def segment(observation: Observation, engine: Any, width: int = 640, **config: Any) -> Any:
    segmenter = RgbThermalSegmenter(RgbThermalSegmenterConfig(**config), engine=engine)
    frame = resized(observation.frame, width, 360)
    return segmenter.segment(frame)[CAMERA]


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True), np.float32)


def test_mean_logits_are_the_logarithm_of_the_mean_probability() -> None:
    runs = [np.log(np.array([[0.5, 0.25, 0.25]])), 7.0 + np.log(np.array([[0.1, 0.8, 0.1]]))]
    np.testing.assert_allclose(np.exp(mean_logits(runs)), [[0.3, 0.525, 0.175]], rtol=1e-5)
    single = np.array([[3.0, -900.0]], np.float32)
    assert mean_logits([single]) is single
    assert np.isfinite(mean_logits([single, single])).all()


def test_only_the_columns_of_the_image_are_mirrored() -> None:
    np.testing.assert_array_equal(mirror_columns(np.arange(5)[None], 3), [[2, 1, 0, 3, 4]])


@pytest.mark.parametrize("width", [640, 500])
def test_the_mean_with_the_mirrored_image_has_no_preferred_side(
    width: int, night_street: Observation
) -> None:
    """A network that prefers one side becomes symmetric; one that does not gives the same result."""
    engine = PositionEngine(0.02, 0.0)
    assert not np.allclose(segment(night_street, engine, width).logits[..., 0][:, ::-1], 0.02)
    both = segment(night_street, engine, width, mirrored=True).logits
    np.testing.assert_allclose(both, both[:, ::-1], atol=1e-5)
    assert engine.runs == 3
    fair = PositionEngine(0.0, 1.0)
    plain = segment(night_street, fair, width).logits
    mirrored = segment(night_street, fair, width, mirrored=True).logits
    inside = np.s_[:, 1:-1]  # columns next to the padding may be half an input pixel beside it
    difference = np.abs(probability(plain) - probability(mirrored))[inside]
    assert np.quantile(difference, 0.95) < 0.05


def test_an_ensemble_of_equal_networks_is_the_network(night_street: Observation) -> None:
    runtime = RuntimeConfig(order=("onnxruntime",), device="cpu")
    config = RgbThermalSegmenterConfig(ensemble=("segmentation",))
    ensemble = RgbThermalSegmenter(config, runtime)
    single = RgbThermalSegmenter(engine=ensemble.engine)
    masks = [s.segment(night_street.frame)[CAMERA] for s in (ensemble, single)]
    np.testing.assert_allclose(*(probability(m.logits) for m in masks), atol=1e-4)
    assert (masks[0].labels == masks[1].labels).mean() > 0.999
    assert len(ensemble.status) == 2


def test_the_mean_of_two_networks_and_a_network_that_fails(
    night_street: Observation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multimodal_perception.segmentation import rgb_thermal

    other = PositionEngine(0.0, 0.0)
    monkeypatch.setattr(rgb_thermal, "open_model", lambda *_: other)
    mask = segment(night_street, PositionEngine(0.1, 0.0), ensemble=("segmentation",))
    alone = segment(night_street, PositionEngine(0.1, 0.0))
    expected = (probability(alone.logits) + 0.1) / 2  # the other network has ten equal classes
    np.testing.assert_allclose(np.exp(mask.logits), expected, atol=1e-5)

    def fail(arrays: Any) -> Any:
        raise EngineError("broken")

    monkeypatch.setattr(other, "run", fail)
    config = RgbThermalSegmenterConfig(ensemble=("segmentation",))
    segmenter = RgbThermalSegmenter(config, engine=PositionEngine(0.1, 0.0))
    mask = segmenter.segment(resized(night_street.frame, 640, 360))[CAMERA]
    np.testing.assert_array_equal(mask.logits, alone.logits)
    assert segmenter.counts[f"{CAMERA}.engine"] == 1


def test_a_network_with_other_inputs_is_refused(tmp_path: Path) -> None:
    import dataclasses
    import shutil

    assert CARD.path is not None
    folder = shutil.copytree(CARD.path.parent, tmp_path / "other")
    settings = {**CARD.settings, "thermal_quartile": 0.4}
    write_card(
        folder, dataclasses.replace(CARD, settings=settings), "model.onnx", "model.safetensors"
    )
    for name, message in (
        (str(folder), r"ensemble: .*settings\.thermal_quartile is 0\.4"),
        ("image_detector", r"ensemble: .*inputs differ"),
        ("no_such_model", "no_such_model"),
    ):
        config = RgbThermalSegmenterConfig(ensemble=(name,))
        with pytest.raises(UserError, match=message):
            RgbThermalSegmenter(config, engine=PositionEngine(0.0, 0.0))
