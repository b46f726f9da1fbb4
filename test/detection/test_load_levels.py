"""Load levels that save nothing are left out; levels that do not exist raise."""

from __future__ import annotations

import pytest

from multimodal_perception.detection.load_levels import (
    available_levels,
    check_level,
)


def test_levels_that_save_nothing_are_left_out() -> None:
    full = ("full", "half_images", "no_refinement", "geometric")
    assert available_levels(True, True) == full
    assert available_levels(False, True) == ("full", "no_refinement", "geometric")
    assert available_levels(False, False) == ("full", "geometric")
    assert check_level(3, full) == 3
    for level in (-1, 4):
        with pytest.raises(ValueError, match=f"load level {level}; allowed: 0 to 3"):
            check_level(level, full)
