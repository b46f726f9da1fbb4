"""Training of the image detector: features, targets, training, export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.runtime.card import Training
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.checkpoint import load_weights
from multimodal_perception.training.image_detector.dataset import (
    FeatureConfig,
    ImageDetectorData,
    ModalityFractions,
    collate_features,
    object_boxes,
    random_crop,
    read_views,
)
from multimodal_perception.training.image_detector.export import export_image_detector
from multimodal_perception.training.image_detector.train import (
    ImageDetectorTraining,
    build_network,
    train_image_detector,
)
from multimodal_perception.training.loop import LoopConfig


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames as render_drives writes them: a bright warm car that a person partly occludes."""
    instances = np.zeros((2, 180, 320), np.int32)
    instances[:, 80:140, 60:160] = 900
    instances[:, 70:150, 150:170] = 70_000
    labels = np.where(instances == 900, 2, np.where(instances > 900, 3, 0)).astype(np.uint8)
    labels[:, 80:90, 60:160][instances[:, 80:90, 60:160] == 900] = 2
    visible = np.where(labels[..., None] > 0, 220, 40) + np.zeros(3)
    visible_mask = np.zeros(labels.shape, np.bool_)
    visible_mask[:, :, :200] = True
    thermal = np.where(visible_mask & (labels > 0), 0.9, 0.1).astype(np.float16)
    path = tmp_path_factory.mktemp("drives") / "thermal_0007.npz"
    np.savez(
        path,
        visible=visible.astype(np.uint8),
        thermal=thermal,
        thermal_valid=visible_mask,
        labels=labels,
        instances=instances,
        own_thermal=np.repeat(thermal[:, 20:140:1, :150], 1, axis=1),
        own_labels=labels[:, 20:140, :150],
        own_instances=instances[:, 20:140, :150],
    )
    return path


def config(steps: int = 2) -> ImageDetectorTraining:
    loop = LoopConfig(steps=steps, batch_size=2, workers=0, save_every=1, precision="fp32")
    return ImageDetectorTraining(features=FeatureConfig(thermal_view_fraction=1.0), loop=loop)


@pytest.fixture(scope="module")
def trained(drive: Path) -> tuple[Path, Path]:
    """Folders of the features and of a short training."""
    out, features = drive.parent / "out", drive.parent / "features"
    train_image_detector(config(), [drive], features, out)
    return features, out


def test_boxes_enclose_the_visible_pixels_of_objects(drive: Path) -> None:
    views, thermal_views = read_views(drive)
    boxes, classes, valid = object_boxes(views[0])
    assert valid.all() and sorted(classes.tolist()) == [0, 1]
    by_class = dict(zip(classes.tolist(), boxes.tolist(), strict=True))
    assert by_class[0] == pytest.approx([96, 128, 240, 224], abs=1)  # 1.6 times as large
    assert by_class[1] == pytest.approx([240, 112, 272, 240], abs=1)
    assert thermal_views[0].view.visible is None
    assert len(object_boxes(thermal_views[0])[0]) == 1


def test_boxes_of_a_crop_match_its_pixels(drive: Path) -> None:
    view = read_views(drive)[0][0]
    for seed in range(8):
        crop = random_crop(view, FeatureConfig().augmentation, np.random.default_rng(seed))
        boxes, classes, _ = object_boxes(crop)
        assert crop.view.labels.shape == (288, 512)
        for (x1, y1, x2, y2), index in zip(boxes.astype(int), classes, strict=True):
            inside = crop.view.labels[y1:y2, x1:x2]
            number = np.flatnonzero(crop.classes == index)[0]
            assert (inside == number).mean() > 0.9
            assert crop.view.visible is not None


def test_modality_dropout_masks_one_image(
    trained: tuple[Path, Path],
) -> None:
    paths = sorted(trained[0].glob("*.npz"))
    assert len(paths) == 6  # two full views, two crops, two views of the thermal camera
    full = [paths[0]]
    thermal = ImageDetectorData(full, ModalityFractions(0.0, 0.0, 1.0))[0]
    assert not thermal["visible_mask"].any() and thermal["thermal_mask"].any()
    both = ImageDetectorData(full, ModalityFractions(1.0, 0.0, 0.0))[0]
    visible = ImageDetectorData(full, ModalityFractions(0.0, 1.0, 0.0))[0]
    assert both["thermal_mask"].any() and not visible["thermal_mask"].any()
    assert set(both["target_labels"]) >= {0, 1}
    assert {0, 1} == set(visible["target_labels"][visible["target_labels"] >= 0])
    again = ImageDetectorData(paths, ModalityFractions(), seed=3)
    assert all((again[2][n] == again[2][n]).all() for n in again[2])
    batch = collate_features([both, thermal])
    assert batch["visible8"].dtype == torch.float32 and batch["visible8"].shape[:2] == (2, 40)


@pytest.mark.timeout(400)
def test_exported_model_computes_the_same_scores(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = trained[1] / "image_detector.safetensors"
    network = build_network(config())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_weights(network, weights)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("head.") for k in changed)
    assert not any(k.startswith("streams.") for k in changed)  # the backbones are frozen
    training = Training("train image-detector", 0, 0.0, "cpu")
    card = export_image_detector(weights, tmp_path / "small", training)
    runtime = RuntimeConfig(order=("onnxruntime",), device="cpu")
    detector = RgbThermalDetector(card=card, runtime=runtime)
    arrays = {n: np.ones(s.shape, np.float32) for n, s in card.inputs.items()}
    scores = detector.engine.run(arrays)["scores"]
    with torch.no_grad():
        expected = network.eval()(*(torch.from_numpy(a) for a in arrays.values()))[0].numpy()
    np.testing.assert_allclose(scores, expected, atol=0.01)


def test_finished_training_is_not_repeated(drive: Path, trained: tuple[Path, Path]) -> None:
    features, out = trained
    stamps = {p: p.stat().st_mtime_ns for p in features.iterdir()}
    network = train_image_detector(config(), [drive], features, out)
    assert {p: p.stat().st_mtime_ns for p in features.iterdir()} == stamps
    kept = build_network(config())
    load_weights(kept, out / "image_detector.safetensors")
    torch.testing.assert_close(kept.head.scores.bias, network.head.scores.bias)


def test_invalid_drives_and_backbones_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "thermal_0000.npz"
    np.savez(path, labels=np.zeros((1, 4, 4), np.uint8))  # no instances
    with pytest.raises(UserError, match=r"thermal_0000\.npz.*instances"):
        read_views(path)
    with pytest.raises(UserError, match="does not contain two EfficientNet-Lite0 backbones"):
        build_network(ImageDetectorTraining(backbones="near_field"))
    with pytest.raises(UserError, match="add up to 1"):
        build(ImageDetectorTraining, {"modality_fractions": {"both": 0.9}}, "file.yaml")
