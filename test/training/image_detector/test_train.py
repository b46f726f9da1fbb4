"""The image detector from stored drives to a model that finds what it was shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.images.rgb_thermal import RgbirDetector
from multimodal_perception.runtime.card import Training
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.checkpoint import load_weights
from multimodal_perception.training.image_detector.dataset import (
    FeatureConfig,
    ImageDetectorData,
    Presence,
    boxes_of,
    crop_of,
    read_objects,
    stack,
)
from multimodal_perception.training.image_detector.export import export_image_detector
from multimodal_perception.training.image_detector.train import (
    ImageDetectorTraining,
    begin,
    train_image_detector,
)
from multimodal_perception.training.loop import LoopConfig


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames as render_drives writes them: a bright warm car with a person half before it."""
    instances = np.zeros((2, 180, 320), np.int32)
    instances[:, 80:140, 60:160] = 900
    instances[:, 70:150, 150:170] = 70_000
    labels = np.where(instances == 900, 2, np.where(instances > 900, 3, 0)).astype(np.uint8)
    labels[:, 80:90, 60:160][instances[:, 80:90, 60:160] == 900] = 2
    visible = np.where(labels[..., None] > 0, 220, 40) + np.zeros(3)
    seen = np.zeros(labels.shape, np.bool_)
    seen[:, :, :200] = True
    thermal = np.where(seen & (labels > 0), 0.9, 0.1).astype(np.float16)
    path = tmp_path_factory.mktemp("drives") / "thermal_0007.npz"
    np.savez(
        path,
        visible=visible.astype(np.uint8),
        thermal=thermal,
        thermal_seen=seen,
        labels=labels,
        instances=instances,
        own_thermal=np.repeat(thermal[:, 20:140:1, :150], 1, axis=1),
        own_labels=labels[:, 20:140, :150],
        own_instances=instances[:, 20:140, :150],
    )
    return path


def config(steps: int = 2) -> ImageDetectorTraining:
    loop = LoopConfig(steps=steps, batch=2, workers=0, save_every=1, precision="fp32")
    return ImageDetectorTraining(features=FeatureConfig(own=1.0), loop=loop)


@pytest.fixture(scope="module")
def trained(drive: Path) -> tuple[Path, Path]:
    """Folders of the features and of a short training."""
    out, features = drive.parent / "out", drive.parent / "features"
    train_image_detector(config(), [drive], features, out)
    return features, out


def test_objects_are_boxed_by_their_visible_pixels(drive: Path) -> None:
    views, own = read_objects(drive)
    boxes, kinds, counts = boxes_of(views[0])
    assert counts.all() and sorted(kinds.tolist()) == [0, 1]
    by_kind = dict(zip(kinds.tolist(), boxes.tolist(), strict=True))
    assert by_kind[0] == pytest.approx([96, 128, 240, 224], abs=1)  # 1.6 times as large
    assert by_kind[1] == pytest.approx([240, 112, 272, 240], abs=1)
    assert own[0].view.visible is None and len(boxes_of(own[0])[0]) == 1


def test_crops_move_boxes_with_their_pixels(drive: Path) -> None:
    view = read_objects(drive)[0][0]
    for seed in range(8):
        crop = crop_of(view, FeatureConfig().augmentation, np.random.default_rng(seed))
        boxes, kinds, _ = boxes_of(crop)
        assert crop.view.labels.shape == (288, 512)
        for (x1, y1, x2, y2), kind in zip(boxes.astype(int), kinds, strict=True):
            inside = crop.view.labels[y1:y2, x1:x2]
            number = np.flatnonzero(crop.kinds == kind)[0]
            assert (inside == number).mean() > 0.9
            assert crop.view.visible is not None


def test_one_image_is_dropped_at_times_and_what_it_alone_shows_is_left_open(
    trained: tuple[Path, Path],
) -> None:
    paths = sorted(trained[0].glob("*.npz"))
    assert len(paths) == 6  # two views whole, two crops, two of the thermal camera's own
    whole = [paths[0]]
    thermal = ImageDetectorData(whole, Presence(0.0, 0.0, 1.0))[0]
    assert not thermal["visible_mask"].any() and thermal["other_mask"].any()
    both = ImageDetectorData(whole, Presence(1.0, 0.0, 0.0))[0]
    visible = ImageDetectorData(whole, Presence(0.0, 1.0, 0.0))[0]
    assert both["other_mask"].any() and not visible["other_mask"].any()
    assert set(both["kinds"]) >= {0, 1} == set(visible["kinds"][visible["kinds"] >= 0])
    again = ImageDetectorData(paths, Presence(), seed=3)
    assert all((again[2][n] == again[2][n]).all() for n in again[2])
    batch = stack([both, thermal])
    assert batch["visible8"].dtype == torch.float32 and batch["visible8"].shape[:2] == (2, 40)


@pytest.mark.timeout(400)
def test_from_drives_to_boxes(trained: tuple[Path, Path], tmp_path: Path) -> None:
    weights = trained[1] / "image_detector.safetensors"
    network = begin(config())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_weights(network, weights)
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("head.") for k in moved)
    assert not any(k.startswith("streams.") for k in moved)  # the backbones stay
    training = Training("train image-detector", 0, 0.0, "cpu")
    card = export_image_detector(weights, tmp_path / "small", training)
    runtime = RuntimeConfig(order=("onnxruntime",), device="cpu")
    detector = RgbirDetector(card=card, runtime=runtime)
    arrays = {n: np.ones(s.shape, np.float32) for n, s in card.inputs.items()}
    scores = detector.engine.run(arrays)["scores"]
    with torch.no_grad():
        expected = network.eval()(*(torch.from_numpy(a) for a in arrays.values()))[0].numpy()
    np.testing.assert_allclose(scores, expected, atol=0.01)


def test_a_training_that_is_done_is_not_done_again(drive: Path, trained: tuple[Path, Path]) -> None:
    features, out = trained
    stamps = {p: p.stat().st_mtime_ns for p in features.iterdir()}
    network = train_image_detector(config(), [drive], features, out)
    assert {p: p.stat().st_mtime_ns for p in features.iterdir()} == stamps
    kept = begin(config())
    load_weights(kept, out / "image_detector.safetensors")
    torch.testing.assert_close(kept.head.scores.bias, network.head.scores.bias)


def test_what_is_no_drive_or_no_backbone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "thermal_0000.npz"
    np.savez(path, labels=np.zeros((1, 4, 4), np.uint8))  # written before there were instances
    with pytest.raises(UserError, match=r"thermal_0000\.npz.*instances"):
        read_objects(path)
    with pytest.raises(UserError, match="no two EfficientNet-Lite0 streams"):
        begin(ImageDetectorTraining(backbones="near_field"))
    with pytest.raises(UserError, match="add to 1"):
        build(ImageDetectorTraining, {"presence": {"both": 0.9}}, "file.yaml")
