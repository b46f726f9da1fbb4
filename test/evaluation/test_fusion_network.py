"""The shipped image fusion weights on images of any size, in the evaluation and in the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.fusion_network import FusionNetwork
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.open_model import open_engine
from multimodal_perception.runtime.settings import RuntimeConfig

CPU = RuntimeConfig(order=("onnxruntime",), device="cpu")


def pair(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    visible, thermal = np.random.default_rng(0).random((2, rows, columns), np.float32)
    return visible, thermal


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (33, 47)])
def test_images_of_any_size_are_fused(size: tuple[int, int]) -> None:
    fused = FusionNetwork("image_fusion").fuse(*pair(*size))
    assert fused.shape == size and fused.min() >= 0 and fused.max() <= 1


def test_output_equals_that_of_the_onnx_model() -> None:
    visible, thermal = pair(360, 640)
    engine = open_engine(load_card("image_fusion"), CPU)
    arrays = {"visible": visible[None, None], "thermal": thermal[None, None]}
    expected = engine.run(arrays)["fused"][0, 0]
    fused = FusionNetwork("image_fusion").fuse(visible, thermal)
    np.testing.assert_allclose(fused, expected, atol=1e-4)


def test_attack_stays_within_epsilon_and_is_reproducible() -> None:
    network, images = FusionNetwork("image_fusion"), pair(21, 30)
    first = network.projected_gradient_attack(*images, 0.02, 2)
    second = network.projected_gradient_attack(*images, 0.02, 2)
    for image, clean, repeated in zip(first, images, second, strict=True):
        assert 0 < np.abs(image - clean).max() <= 0.02 + 1e-6
        np.testing.assert_array_equal(image, repeated)


def test_other_models_are_refused() -> None:
    with pytest.raises(UserError, match="only moe_fusion is allowed"):
        FusionNetwork("segmentation")
    with pytest.raises(UserError, match="no such model"):
        FusionNetwork("none_such")


def test_export_of_another_size_gives_equal_output(tmp_path: Path) -> None:
    out = tmp_path / "small"
    command = ["export", "image-fusion", "image_fusion", "--size", "32", "48", "--out", str(out)]
    assert main(command) == 0
    card = load_card(out)
    visible, thermal = pair(32, 48)
    arrays = {"visible": visible[None, None], "thermal": thermal[None, None]}
    expected = open_engine(card, CPU).run(arrays)["fused"][0, 0]
    fused = FusionNetwork("image_fusion").fuse(visible, thermal)
    np.testing.assert_allclose(fused, expected, atol=1e-4)
    assert card.figures == load_card("image_fusion").figures


def test_export_refuses_odd_sizes_and_the_folder_of_the_source_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "export",
        "image-fusion",
        "image_fusion",
        "--size",
        "33",
        "48",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 2
    assert "even numbers from 16 to 4096" in capsys.readouterr().err
    folder = load_card("image_fusion").path
    assert folder is not None
    assert main(["export", "image-fusion", "image_fusion", "--out", str(folder.parent)]) == 2
    assert "another folder" in capsys.readouterr().err
