"""TwinLiteNet from published weights to masks: import, image sizes, invalid input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.networks.twinlitenet import TwinLiteNet, card, load_published
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.onnx_export import write_model
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.drivable import DrivableConfig, DrivableSegmenter

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "twinlitenet"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (DATA / "best.pth").is_file():
        pytest.skip("the published weights are not beside the checkout")
    folder = tmp_path_factory.mktemp("twinlitenet")
    assert main(["import", "twinlitenet", str(DATA / "best.pth"), "--out", str(folder)]) == 0
    return folder


def frame_of(pixels: np.ndarray) -> SensorFrame:
    return SensorFrame(0, cameras={"front": CameraImage("front", 7, "front", pixels)})


def segmenter(folder: Path) -> DrivableSegmenter:
    return DrivableSegmenter(DrivableConfig(str(folder)), RuntimeConfig(order=("onnxruntime",)))


def test_road_of_real_images_is_drivable(imported: Path) -> None:
    import cv2

    images = sorted(p for p in DATA.rglob("*") if p.suffix in (".jpg", ".png"))
    assert images
    network = segmenter(imported)
    for path in images:  # the bonnet may cover much of the lower part
        pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        mask = network.segment(frame_of(pixels))["front"]
        assert mask.labels.shape == pixels.shape[:2] and mask.stamp_ns == 7
        height, width = mask.labels.shape
        below = mask.labels[height * 6 // 10 :, width // 3 : width * 2 // 3]
        above = mask.labels[: height // 4]
        assert (below > 0).mean() > 0.2 and (above > 0).mean() < 0.02, path.name


def test_other_image_sizes_and_blank_images(imported: Path) -> None:
    network = segmenter(imported)
    rng = np.random.default_rng(0)
    tall = rng.integers(0, 255, (300, 200, 3), np.uint8)
    assert network.segment(frame_of(tall))["front"].labels.shape == (300, 200)
    assert not network.segment(frame_of(np.full((90, 160, 3), 255, np.uint8)))
    assert network.counts["front.blank"] == 1
    assert not network.segment(SensorFrame(0))


def test_invalid_weights_give_clear_errors(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "other.pth"
    torch.save({"module.encoder.level1.conv.weight": torch.zeros(3)}, path)
    assert main(["import", "twinlitenet", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "not TwinLiteNet's published weights" in capsys.readouterr().err
    path.write_bytes(b"not a checkpoint")
    assert main(["import", "twinlitenet", str(path), "--out", str(tmp_path / "out")]) == 2
    assert main(["import", "twinlitenet", "/no/file", "--out", str(tmp_path / "out")]) == 2
    with pytest.raises(UserError, match="state dict"):
        load_published([1, 2], "list")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"pipeline\.drivable\.model"):
        DrivableSegmenter(DrivableConfig())


def test_cards_of_other_networks_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, TwinLiteNet().eval(), card())
    text = (tmp_path / "card.yaml").read_text()
    for old, new, match in (
        ("architecture: twinlitenet", "architecture: moe_fusion", "allowed: twinlitenet"),
        ("  image:", "  picture:", "inputs.image.shape"),
        ("  lane:", "  lanes:", "outputs: drivable and lane"),
    ):
        assert old in text
        (tmp_path / "card.yaml").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=match):
            segmenter(tmp_path)


def test_exported_onnx_is_parsed_by_tensorrt_rtx(tmp_path: Path) -> None:
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx")
    torch.manual_seed(0)
    write_model(tmp_path, TwinLiteNet().eval(), card())
    assert load_card(tmp_path).architecture == "twinlitenet"
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(
        1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = tensorrt_rtx.OnnxParser(network, logger)
    assert parser.parse((tmp_path / "model.onnx").read_bytes())
    assert network.num_outputs == 2
