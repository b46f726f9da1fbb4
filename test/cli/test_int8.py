"""`export int8` writes calibrated models that the engines use; wrong arguments are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.evaluate.precision import open_engine_detector
from multimodal_perception.cli.export.int8 import linked_cards
from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.open_model import open_engine, open_single_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from test.runtime import small_models as models


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    for seed in range(4):
        np.savez(folder / f"{seed}.npz", **models.scatter_arrays(seed))  # type: ignore[arg-type]
    return folder


def test_calibrated_model_runs_in_int8_close_to_float32(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = models.save(tmp_path / "scatter", models.scatter_model())
    cache = tmp_path / "cache"
    arguments = ["export", "int8", str(tmp_path / "scatter"), "--cache", str(cache)]
    assert main([*arguments, "--calibrate", str(inputs)]) == 0
    assert "scores: mean difference from fp32" in capsys.readouterr().out
    plain = open_single_engine("onnxruntime", card, RuntimeConfig(precision="fp32"))
    expected = plain.run(models.scatter_arrays(9))["scores"]
    for engine in ("onnxruntime", "openvino"):
        if engine == "openvino":
            pytest.importorskip("openvino")
        config = RuntimeConfig(order=(engine,), precision="int8", cache=str(cache))  # type: ignore[arg-type]
        opened = open_engine(card, config)
        assert opened.precision == "int8" and opened.name == engine
        found = opened.run(models.scatter_arrays(9))["scores"]
        assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_a_network_without_an_int8_model_runs_in_fp32_with_the_reason(tmp_path: Path) -> None:
    card = models.save(tmp_path / "scatter", models.scatter_model())
    config = RuntimeConfig(order=("onnxruntime",), precision="int8", cache=str(tmp_path))
    engine = open_engine(card, config)
    assert engine.precision == "fp32"
    assert "export int8 scatter" in engine.diagnostics()["unavailable.onnxruntime"]


def test_a_linked_network_without_convolutions_is_left_in_fp32(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {"y": models.INPUTS["image"]}
    models.save(tmp_path / "plain", models.model_without_convolutions(), outputs=outputs)
    models.save(tmp_path / "scatter", models.scatter_model(), settings={"refinement": "plain"})
    arguments = ["--calibrate", str(inputs), "--cache", str(tmp_path / "cache")]
    assert main(["export", "int8", str(tmp_path / "scatter"), *arguments]) == 0
    assert "plain: no 2D convolution to quantise; it runs in fp32" in capsys.readouterr().out
    assert main(["export", "int8", str(tmp_path / "plain"), *arguments]) != 0


def test_a_detector_is_calibrated_with_all_networks_that_its_card_names() -> None:
    assert {c.name for c in linked_cards(load_card("bev_fusion"))} >= {
        "bev_fusion",
        "bev_fusion_camera",
        "bev_fusion_thermal",
        "bev_fusion_refinement",
    }
    assert [c.name for c in linked_cards(load_card("segmentation"))] == ["segmentation"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_model", "--calibrate", "synthetic"], "no_model"),
        (["bev_fusion_camera", "--calibrate", "/no/such/bag"], "/no/such/bag"),
    ],
)
def test_wrong_arguments_are_errors(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "int8", *arguments, "--cache", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_an_engine_that_cannot_run_the_detector_is_no_row_of_the_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--engines: 'openvino'; allowed: one of tensorrt"):
        open_engine_detector("bev_fusion", "openvino", "")
    with pytest.raises(UserError, match=r"onnxruntime:int8: bev_fusion.*not calibrated"):
        open_engine_detector("bev_fusion", "onnxruntime:int8", str(tmp_path))
