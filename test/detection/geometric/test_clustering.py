"""Clustering against a brute-force search for connected components."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from multimodal_perception.detection.geometric.clustering import cluster


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 150), st.floats(0.5, 12.0))
def test_clusters_are_the_connected_components_of_close_cells(
    seed: int, count: int, spread: float
) -> None:
    cell, gap, growth = 0.15, 0.3, 0.012
    points = np.random.default_rng(seed).normal(0, spread, (count, 4)).astype(np.float32)
    clusters = cluster(points, cell, 64.0, gap, growth, 1)
    cells = np.floor(points[:, :2] / np.float64(cell)).astype(int)
    step = cells[:, None] - cells[None]
    distance = np.hypot(step[..., 0], step[..., 1])
    limit = (gap + growth * cell * np.hypot(cells[:, 0], cells[:, 1])) / cell
    near = distance <= np.maximum(limit[:, None], limit[None])
    _, expected = connected_components(near)
    actual = np.full(count, -1)
    for c in range(len(clusters)):
        actual[clusters.sources[clusters.starts[c] : clusters.starts[c + 1]]] = c
    assert (actual >= 0).all()
    same = actual[:, None] == actual[None]
    expected_same = expected[:, None] == expected[None]
    # For pairs at the very limit, the result may depend on the scan's direction.
    borderline = (np.abs(distance - limit[:, None]) < 1.5) | (np.abs(distance - limit[None]) < 1.5)
    if not (borderline & ~np.eye(count, dtype=bool)).any():
        assert (same == expected_same).all()
    assert not (same & ~expected_same).any()


def test_small_clusters_and_points_out_of_range_are_dropped() -> None:
    near = np.array([[1, 1, 0, 1]] * 5 + [[5, 5, 0, 1]] * 2 + [[100, 0, 0, 1]] * 9, np.float32)
    clusters = cluster(near, 0.15, 64.0, 0.3, 0.01, 3)
    assert len(clusters) == 1
    assert sorted(clusters.sources.tolist()) == [0, 1, 2, 3, 4]


def test_no_points_give_no_clusters() -> None:
    assert len(cluster(np.zeros((0, 4), np.float32), 0.15, 64.0, 0.3, 0.01, 1)) == 0
