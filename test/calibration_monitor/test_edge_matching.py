"""Structure that unlike images share, and how blocks of it are matched."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.calibration_monitor.edge_matching import (
    ORIENTATIONS,
    match_blocks,
    structure,
)
from test.calibration_monitor.painted_street import texture


def test_structure_does_not_care_which_side_is_bright() -> None:
    image = texture((120, 160))
    features, held = structure(image)
    inverted, _ = structure(255 - image)
    assert features.shape == (ORIENTATIONS, 120, 160) and held.all()
    np.testing.assert_allclose(features, inverted, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_structure_does_not_care_for_units(dtype: type) -> None:
    image = texture((96, 96)).astype(np.float32)
    scale = 1.0 if dtype == np.uint8 else 200.0
    features, _ = structure((scale * image).astype(dtype))
    np.testing.assert_allclose(features, structure(image)[0], atol=1e-3)


@pytest.mark.parametrize("value", [0, 255])
def test_an_even_image_has_no_structure(value: int) -> None:
    features, _ = structure(np.full((64, 64), value, np.uint8))
    assert np.isfinite(features).all() and np.abs(features).max() < 1e-3


def test_the_border_of_what_is_seen_is_no_edge() -> None:
    seen = np.zeros((100, 100), bool)
    seen[:, :60] = True
    image = np.where(seen, 200, 0).astype(np.uint8)
    features, held = structure(image, seen)
    assert np.abs(features).max() < 1e-3
    assert held[:, :50].all() and not held[:, 60:].any()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (7, -5), (-13, 11)])
def test_blocks_are_found_where_they_went(dx: int, dy: int) -> None:
    image = texture((200, 240))
    moved = np.roll(255 - image, (dy, dx), (0, 1))
    blocks = match_blocks(structure(image), structure(moved), size=64, step=48, reach=16)
    assert blocks.reach == 16 and len(blocks.scores) == len(blocks.centres) > 6
    inner = [k for k, c in enumerate(blocks.centres) if 50 < c[0] < 190 and 50 < c[1] < 150]
    for k in inner:
        row, column = np.unravel_index(blocks.scores[k].argmax(), blocks.scores[k].shape)
        assert (column - 16, row - 16) == pytest.approx((dx, dy), abs=1)
        assert 0.8 < blocks.scores[k].max() < 1.01


def test_images_smaller_than_a_block_give_no_blocks() -> None:
    small = structure(texture((40, 40)))
    assert match_blocks(small, small).scores.shape == (0, 57, 57)
