"""Inputs of the fusion detector without LiDAR."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.pillars import PillarConfig
from multimodal_perception.detection.fusion.network_inputs import proposal_inputs

CONFIG = PillarConfig(half_extent=8.0, cell=0.5, max_pillars=200)


def test_dropped_pillars_are_counted_without_lidar() -> None:
    class Views:
        """Every position is visible in a camera."""

        count = 1

        def project(self, positions: NDArray[np.floating]) -> dict[str, NDArray[np.float32]]:
            valid = np.ones(len(positions), np.float32)
            return {"camera_valid": valid, "thermal_valid": 0 * valid}

    no_points, no_ranges = np.zeros((0, 4), np.float32), np.zeros((0, 8), np.float32)
    arrays, dropped = proposal_inputs(no_points, Views(), no_ranges, CONFIG)  # type: ignore[arg-type]
    assert np.count_nonzero(arrays["camera_valid"]) == CONFIG.max_pillars
    assert dropped == CONFIG.size**2 - CONFIG.max_pillars
