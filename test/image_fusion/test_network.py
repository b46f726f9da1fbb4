"""The shipped weights on images of any size, as evaluation and export use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.image_fusion.network import AnySizeFusion
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.open_model import open_engine
from multimodal_perception.runtime.settings import RuntimeConfig

CPU = RuntimeConfig(order=("onnxruntime",), device="cpu")


def pair(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    visible, thermal = np.random.default_rng(0).random((2, rows, columns), np.float32)
    return visible, thermal


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (33, 47)])
def test_any_size_goes(size: tuple[int, int]) -> None:
    fused = AnySizeFusion("image_fusion").fuse(*pair(*size))
    assert fused.shape == size and fused.min() >= 0 and fused.max() <= 1


def test_it_says_what_the_onnx_says() -> None:
    visible, thermal = pair(360, 640)
    engine = open_engine(load_card("image_fusion"), CPU)
    arrays = {"visible": visible[None, None], "thermal": thermal[None, None]}
    expected = engine.run(arrays)["fused"][0, 0]
    fused = AnySizeFusion("image_fusion").fuse(visible, thermal)
    np.testing.assert_allclose(fused, expected, atol=1e-4)


def test_an_attack_on_it_is_small_and_the_same_each_time() -> None:
    network, images = AnySizeFusion("image_fusion"), pair(21, 30)
    moved = network.attacked(*images, 0.02, 2)
    for image, clean, again in zip(moved, images, network.attacked(*images, 0.02, 2), strict=True):
        assert 0 < np.abs(image - clean).max() <= 0.02 + 1e-6
        np.testing.assert_array_equal(image, again)


def test_other_models_are_refused() -> None:
    with pytest.raises(UserError, match="moe_fusion is needed"):
        AnySizeFusion("segmentation")
    with pytest.raises(UserError, match="no such model"):
        AnySizeFusion("none_such")


def test_export_writes_another_size_that_says_the_same(tmp_path: Path) -> None:
    out = tmp_path / "small"
    command = ["export", "image-fusion", "image_fusion", "--size", "32", "48", "--out", str(out)]
    assert main(command) == 0
    card = load_card(out)
    visible, thermal = pair(32, 48)
    arrays = {"visible": visible[None, None], "thermal": thermal[None, None]}
    expected = open_engine(card, CPU).run(arrays)["fused"][0, 0]
    fused = AnySizeFusion("image_fusion").fuse(visible, thermal)
    np.testing.assert_allclose(fused, expected, atol=1e-4)
    assert card.figures == load_card("image_fusion").figures


def test_export_refuses_odd_sizes_and_its_own_folder(
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
    assert "even, 16 to 4096" in capsys.readouterr().err
    folder = load_card("image_fusion").path
    assert folder is not None
    assert main(["export", "image-fusion", "image_fusion", "--out", str(folder.parent)]) == 2
    assert "another folder" in capsys.readouterr().err
