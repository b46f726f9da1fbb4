"""Images of a sensor pair with and without the correction of its drift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from multimodal_perception.calibration_monitor.monitor import estimate_drift
from multimodal_perception.calibration_monitor.sensor_pairs import RotationMeasurement, find_pairs
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.visualization.calibration_view import EDGE_COLOUR, draw_drift
from multimodal_perception.visualization.sheet import WIDTH


def test_edges_shift_when_the_drift_is_corrected() -> None:
    frame = SyntheticDataset()[3]
    pair = next(iter(find_pairs(frame)))
    rotation = np.radians((0.0, 2.0, 0.0))
    measurement = RotationMeasurement(
        pair, 0, rotation, 1e-8 * np.eye(3), np.full(3, 1e-3), np.full(2, 500.0), 1.0, 5.0
    )
    uncorrected = draw_drift(frame, pair, None)
    both = draw_drift(frame, pair, estimate_drift([measurement]))
    assert uncorrected.shape[1] == both.shape[1] == WIDTH
    edges = [(image == EDGE_COLOUR).all(-1) for image in (uncorrected, both)]
    half = WIDTH // 2
    assert edges[0][:, :half].sum() > 100 and not edges[0][:, half:].any()
    assert np.array_equal(edges[0][:, :half], edges[1][:, :half])
    assert edges[1][:, half:].sum() > 100
    assert not np.array_equal(edges[1][:, half : 2 * half - 8], edges[1][:, 8:half])


def test_pair_without_overlap_is_drawn_as_a_message() -> None:
    frame = SyntheticDataset()[0]
    pair = next(iter(find_pairs(frame)))
    sweep = frame.lidars[pair.reference]
    no_points = replace(
        frame, lidars={pair.reference: replace(sweep, points=sweep.points[:0], rings=None)}
    )
    assert draw_drift(no_points, pair, None).shape[1] == WIDTH
