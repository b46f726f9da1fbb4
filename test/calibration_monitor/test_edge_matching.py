"""Edge features of images from different sensors, and the matching of their blocks."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.calibration_monitor.edge_matching import (
    ORIENTATIONS,
    edge_channels,
    match_blocks,
)
from test.calibration_monitor.painted_street import texture


def test_inverted_image_has_the_same_edge_features() -> None:
    image = texture((120, 160))
    features, mask = edge_channels(image)
    inverted, _ = edge_channels(255 - image)
    assert features.shape == (ORIENTATIONS, 120, 160) and mask.all()
    np.testing.assert_allclose(features, inverted, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_edge_features_are_independent_of_scale_and_dtype(dtype: type) -> None:
    image = texture((96, 96)).astype(np.float32)
    scale = 1.0 if dtype == np.uint8 else 200.0
    features, _ = edge_channels((scale * image).astype(dtype))
    np.testing.assert_allclose(features, edge_channels(image)[0], atol=1e-3)


@pytest.mark.parametrize("value", [0, 255])
def test_uniform_image_has_no_edges(value: int) -> None:
    features, _ = edge_channels(np.full((64, 64), value, np.uint8))
    assert np.isfinite(features).all() and np.abs(features).max() < 1e-3


def test_border_of_the_valid_region_is_no_edge() -> None:
    valid = np.zeros((100, 100), bool)
    valid[:, :60] = True
    image = np.where(valid, 200, 0).astype(np.uint8)
    features, mask = edge_channels(image, valid)
    assert np.abs(features).max() < 1e-3
    assert mask[:, :50].all() and not mask[:, 60:].any()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (7, -5), (-13, 11)])
def test_block_scores_peak_at_the_displacement(dx: int, dy: int) -> None:
    image = texture((200, 240))
    moved = np.roll(255 - image, (dy, dx), (0, 1))
    blocks = match_blocks(
        edge_channels(image), edge_channels(moved), size=64, step=48, max_displacement=16
    )
    assert blocks.max_displacement == 16 and len(blocks.scores) == len(blocks.centres) > 6
    inner = [k for k, c in enumerate(blocks.centres) if 50 < c[0] < 190 and 50 < c[1] < 150]
    for k in inner:
        row, column = np.unravel_index(blocks.scores[k].argmax(), blocks.scores[k].shape)
        assert (column - 16, row - 16) == pytest.approx((dx, dy), abs=1)
        assert 0.8 < blocks.scores[k].max() < 1.01


def test_image_smaller_than_a_block_gives_no_blocks() -> None:
    small = edge_channels(texture((40, 40)))
    assert match_blocks(small, small).scores.shape == (0, 57, 57)
