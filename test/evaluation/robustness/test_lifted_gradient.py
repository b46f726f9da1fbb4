"""The differentiable lifting of an image gives the values of the kernels, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multimodal_perception.detection.bev_fusion.image_bev import ImageSet
from multimodal_perception.detection.bev_fusion.network_config import stage1_inputs
from multimodal_perception.detection.bev_fusion.network_inputs import image_arrays
from multimodal_perception.detection.bev_fusion.pillars import Pillars, build_pillars
from multimodal_perception.evaluation.robustness.lifted_gradient import ImageShare
from test.detection.bev_fusion.small_frames import street_points
from test.detection.bev_fusion.small_images import SMALL, random_image

# Two cameras whose fields of view overlap, a fisheye camera and a thermal camera.
IMAGES = ImageSet(
    [
        random_image(0, painted=False),
        random_image(1, yaw=0.4, painted=False),
        random_image(2, yaw=2.0, fisheye=True, painted=False),
        random_image(3, yaw=0.1, modality="thermal", painted=False),
    ],
    masked_boxes=np.array([[6.0, 0.5, 0.9, 2.0, 2.0, 2.0, 0.0]], np.float32),
)


@pytest.fixture(scope="module")
def pillars() -> Pillars:
    return build_pillars(street_points(), SMALL.pillars)


def outputs(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and ranges of an image."""
    image = IMAGES.images[index]
    return torch.from_numpy(image.features)[None], torch.from_numpy(image.ranges)[None]


def test_shares_of_all_images_add_up_to_the_result_of_the_kernels(pillars: Pillars) -> None:
    expected = image_arrays(IMAGES, pillars, SMALL)
    shares = [
        ImageShare(IMAGES, k, SMALL, pillars.centroids)(*outputs(k))
        for k in range(len(IMAGES.images))
    ]
    for name, width in (
        ("image_bev", SMALL.modality_channels),
        ("pillar_images", SMALL.sample_channels),
    ):
        total = torch.stack([share[name] for share in shares]).sum(0)[0].numpy()
        assert total.shape == stage1_inputs(SMALL)[name][0][1:]
        for first in (
            0,
            width,
        ):  # the last channel of a modality is 1 where an image shows the cell
            part = slice(first, first + width - 1)
            assert np.abs(expected[name][:, part]).max() > 0.1
            np.testing.assert_allclose(total[:, part], expected[name][:, part], atol=2e-4)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_gradient_is_the_difference_quotient(index: int, pillars: Pillars) -> None:
    share = ImageShare(IMAGES, index, SMALL, pillars.centroids)
    features, ranges = (values.requires_grad_(True) for values in outputs(index))

    def value(features: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
        parts = share(features, ranges)
        return sum((torch.sin(p.double()).sum() for p in parts.values()), torch.zeros(()))

    gradients = torch.autograd.grad(value(features, ranges), (features, ranges))
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(g.shape, generator=generator) * g.abs().sign() for g in gradients]
    step = 1e-3
    with torch.no_grad():
        moved = [
            value(features + sign * step * directions[0], ranges + sign * step * directions[1])
            for sign in (1, -1)
        ]
    expected = float(moved[0] - moved[1]) / (2 * step)
    result = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert abs(expected) > 1.0 and result == pytest.approx(expected, rel=0.02)
