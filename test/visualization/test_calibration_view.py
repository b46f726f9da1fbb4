"""Pictures of a pair before and after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from multimodal_perception.calibration_monitor.monitor import judge
from multimodal_perception.calibration_monitor.sensor_pairs import Look, pairs_of
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.visualization.calibration_view import EDGE_COLOUR, draw_drift
from multimodal_perception.visualization.sheet import WIDTH


def test_edges_move_with_the_drift_that_is_taken_out() -> None:
    frame = SyntheticStreet()[3]
    pair = next(iter(pairs_of(frame)))
    turn = np.radians((0.0, 2.0, 0.0))
    seen = Look(pair, 0, turn, 1e-8 * np.eye(3), np.full(3, 1e-3), np.full(2, 500.0), 1.0, 5.0)
    alone = draw_drift(frame, pair, None)
    both = draw_drift(frame, pair, judge([seen]))
    assert alone.shape[1] == both.shape[1] == WIDTH
    edges = [(image == EDGE_COLOUR).all(-1) for image in (alone, both)]
    half = WIDTH // 2
    assert edges[0][:, :half].sum() > 100 and not edges[0][:, half:].any()
    assert np.array_equal(edges[0][:, :half], edges[1][:, :half])
    assert edges[1][:, half:].sum() > 100
    assert not np.array_equal(edges[1][:, half : 2 * half - 8], edges[1][:, 8:half])


def test_a_pair_without_a_common_view_is_said_to_be_so() -> None:
    frame = SyntheticStreet()[0]
    pair = next(iter(pairs_of(frame)))
    sweep = frame.lidars[pair.reference]
    nothing = replace(
        frame, lidars={pair.reference: replace(sweep, points=sweep.points[:0], rings=None)}
    )
    assert draw_drift(nothing, pair, None).shape[1] == WIDTH
