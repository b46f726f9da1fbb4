"""Clusters against a brute-force search for connected components."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from multimodal_perception.detection.geometric.clustering import cluster


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 150), st.floats(0.5, 12.0))
def test_groups_are_the_connected_components_of_near_cells(
    seed: int, count: int, spread: float
) -> None:
    cell, gap, growth = 0.15, 0.3, 0.012
    points = np.random.default_rng(seed).normal(0, spread, (count, 4)).astype(np.float32)
    found = cluster(points, cell, 64.0, gap, growth, 1)
    at = np.floor(points[:, :2] / np.float64(cell)).astype(int)
    step = at[:, None] - at[None]
    apart = np.hypot(step[..., 0], step[..., 1])
    reach = (gap + growth * cell * np.hypot(at[:, 0], at[:, 1])) / cell
    near = apart <= np.maximum(reach[:, None], reach[None])
    _, expected = connected_components(near)
    ours = np.full(count, -1)
    for c in range(len(found)):
        ours[found.sources[found.starts[c] : found.starts[c + 1]]] = c
    assert (ours >= 0).all()
    together = ours[:, None] == ours[None]
    wanted = expected[:, None] == expected[None]
    # A pair at the very edge of the reach may fall to either side of the scan's direction.
    borderline = (np.abs(apart - reach[:, None]) < 1.5) | (np.abs(apart - reach[None]) < 1.5)
    if not (borderline & ~np.eye(count, dtype=bool)).any():
        assert (together == wanted).all()
    assert not (together & ~wanted).any()


def test_small_groups_and_far_points_are_left_out() -> None:
    near = np.array([[1, 1, 0, 1]] * 5 + [[5, 5, 0, 1]] * 2 + [[100, 0, 0, 1]] * 9, np.float32)
    found = cluster(near, 0.15, 64.0, 0.3, 0.01, 3)
    assert len(found) == 1
    assert sorted(found.sources.tolist()) == [0, 1, 2, 3, 4]


def test_no_points_give_no_groups() -> None:
    assert len(cluster(np.zeros((0, 4), np.float32), 0.15, 64.0, 0.3, 0.01, 1)) == 0
