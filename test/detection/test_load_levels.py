"""Every camera is used in every second frame when images are saved; other levels raise."""

from __future__ import annotations

import pytest

from multimodal_perception.detection.load_levels import (
    alternate_images,
    available_levels,
    check_level,
)
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.sample_frame import sample_frame


def test_levels_that_save_nothing_are_left_out() -> None:
    full = ("full", "half_images", "no_refinement", "geometric")
    assert available_levels(True, True) == full
    assert available_levels(False, True) == ("full", "no_refinement", "geometric")
    assert available_levels(False, False) == ("full", "geometric")
    assert check_level(3, full) == 3
    for level in (-1, 4):
        with pytest.raises(ValueError, match=f"load level {level}; allowed: 0 to 3"):
            check_level(level, full)


def test_images_alternate_and_single_ones_are_kept() -> None:
    frame = sample_frame(load_rig(resolve_rig_path("simulation")))
    first, skipped = alternate_images(frame, 0)
    second, _ = alternate_images(frame, 1)
    assert skipped == 1 and len(first.cameras) == len(second.cameras) == 1
    assert {*first.cameras, *second.cameras} == set(frame.cameras)
    assert set(first.thermals) == set(second.thermals) == set(frame.thermals)
    assert first.lidars == frame.lidars
