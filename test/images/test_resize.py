"""Images resized to a network's input size."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.images.resize import fit_image


@pytest.mark.parametrize("shape", [(370, 1224, 3), (288, 512, 3), (100, 90, 3)])
def test_reversed_channels_give_the_same_image(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    fitted = fit_image(pixels, (288, 512))
    assert fitted.shape == (288, 512, 3) and fitted.flags.c_contiguous
    np.testing.assert_array_equal(fit_image(pixels[..., ::-1], (288, 512)), fitted[..., ::-1])


def test_aspect_ratio_is_kept_and_the_rest_is_zero() -> None:
    fitted = fit_image(np.full((100, 400), 7, np.uint8), (256, 320))
    assert (fitted[:80] == 7).all() and not fitted[80:].any()
