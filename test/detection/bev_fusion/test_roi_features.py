"""RoI features against a plain numpy implementation and hand-made point clouds."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.bev_fusion.roi_features import (
    FACE_BIN,
    FACE_FEATURES,
    GRID_MARGIN,
    GRID_SCALE,
    LATERAL_CELLS,
    LONGITUDINAL_CELLS,
    MIN_RETURN_HEIGHT,
    PointIndex,
    compute_roi_features,
)


def test_grid_features_of_a_rotated_box_match_numpy() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-12, 12, (20_000, 4)).astype(np.float32)
    points[:, 2] = rng.uniform(-1, 3, len(points))
    box = np.array([4.0, -3.0, 0.8, 4.4, 1.8, 1.6, 0.7], np.float32)
    features, positions, _, _ = compute_roi_features(box[None], PointIndex.build(points, 10.0))
    c, s = np.cos(box[6]), np.sin(box[6])
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    np.testing.assert_allclose(positions[0], features[0, :, :3] @ rotation.T + box[:3], atol=1e-5)
    on_grid = points[(np.abs(points[:, :2]) < 10.0).all(axis=1), :3]
    local = (on_grid - box[:3]) @ rotation
    side = box[3:6] * GRID_SCALE + 2 * GRID_MARGIN
    cell = np.floor((local / side + 0.5) * 6).astype(int)
    within = ((cell >= 0) & (cell < 6)).all(axis=1)
    number = (cell[:, 0] * 6 + cell[:, 1]) * 6 + cell[:, 2]
    for q in range(0, 216, 7):
        expected = local[within & (number == q)]
        np.testing.assert_allclose(features[0, q, 3], np.log10(len(expected) + 0.5), atol=1e-5)
        mean = expected.mean(axis=0) if len(expected) else np.zeros(3)
        np.testing.assert_allclose(features[0, q, 4:], mean, atol=2e-4)


def test_features_are_zero_without_points_or_outside_the_index() -> None:
    boxes = np.array([[0, 0, 0, 4, 2, 1.5, 0], [500, -500, 0, 4, 2, 1.5, 1]], np.float32)
    features, _, extents, profile = compute_roi_features(
        boxes, PointIndex.build(np.zeros((0, 4), np.float32), 10.0)
    )
    np.testing.assert_allclose(features[..., 3], np.log10(0.5), atol=1e-6)
    assert (features[..., 4:] == 0).all()
    np.testing.assert_allclose(extents, [[0, 0, 0, 0, 0, np.log10(0.5)]] * 2, atol=1e-6)
    assert (profile[:, 2:] == 0).all()


def test_extents_ignore_ground_returns_and_returns_beside_the_box() -> None:
    rng = np.random.default_rng(5)
    box = np.array([5.0, 2.0, 1.5, 10.0, 2.5, 3.0, 0.6], np.float32)
    # A bus from -5.2 to 3.9 m along the box, with returns from its near side only, and other returns in
    # front of it and beside it. In the box's frame.
    wall = np.column_stack(
        [rng.uniform(-5.2, 3.9, 4000), np.full(4000, -1.2), rng.uniform(-1, 1.3, 4000)]
    )
    wall[:2, 0] = -5.2, 3.9
    wall[2, 2] = 1.3
    ground = np.column_stack(
        [rng.uniform(-5.5, 5.5, (4000, 2)), np.full(4000, -1.49 + MIN_RETURN_HEIGHT / 2)]
    )
    beside = np.array([[5.4, 1.41, 0.0], [0.0, 1.36, 0.0], [5.3, -1.41, 0.5]])
    c, s = np.cos(box[6]), np.sin(box[6])
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    local = np.concatenate([wall, ground, beside])
    points = np.zeros((len(local), 4), np.float32)
    points[:, :3] = local @ rotation.T + box[:3]
    extents = compute_roi_features(box[None], PointIndex.build(points, 20.0))[2][0]
    ends = [-5.2 / 10, 3.9 / 10, -1.2 / 2.5, 1.36 / 2.5, 1.3 / 3]
    np.testing.assert_allclose(extents[:5], ends, atol=1e-4)
    assert extents[5] == np.float32(np.log10(4003.5))


def test_features_of_a_box_of_size_zero_are_finite() -> None:
    points = np.array([[0.1, 0.0, 0.5, 1.0]], np.float32)
    box = np.zeros((1, 7), np.float32)
    assert all(
        np.isfinite(a).all() for a in compute_roi_features(box, PointIndex.build(points, 10.0))
    )


def test_profile_histograms_have_cells_of_0_5_0_08_and_0_1_m() -> None:
    # A bus to the left, same heading as the vehicle: rear, side, and a front end beyond the proposal.
    box = np.array([10.0, 4.0, 1.5, 9.0, 2.5, 3.0, 0.0], np.float32)
    local = np.array(
        [
            *[[-4.4, y, 0.0] for y in (-1.18, -0.7, 0.0, 0.7, 1.18)],  # the rear
            *[[x, -1.18, 0.5] for x in (-2.1, 0.1, 2.3, 6.9)],  # the side, 2.4 m beyond the front
            [-4.4, 0.0, 1.44],  # the roof's edge, 2.94 m above the ground
            [-4.4, 0.0, -1.4],  # the ground: too low
            [0.0, 1.7, 0.0],  # beside the box
            [8.5, 0.0, 0.0],  # too far in front of it
        ]
    )
    points = np.zeros((len(local), 4), np.float32)
    points[:, :3] = local + box[:3]
    profile = compute_roi_features(box[None], PointIndex.build(points, 30.0))[3][0]
    distance = np.hypot(10.0, 4.0)
    np.testing.assert_allclose(profile[:2], [-10.0 / distance, -4.0 / distance], atol=1e-6)
    counts = np.rint(10 ** profile[2:-FACE_FEATURES] - 1).astype(int)
    along, across, up = np.split(counts, [LONGITUDINAL_CELLS, LONGITUDINAL_CELLS + LATERAL_CELLS])
    # Counts by the lower end of the cell, metres.
    assert {k / 2 - 8: n for k, n in enumerate(along) if n} == {
        -4.5: 6, -2.5: 1, 0.0: 1, 2.0: 1, 6.5: 1
    }  # fmt: skip
    assert {round(k * 0.08 - 1.6, 2): n for k, n in enumerate(across) if n} == {
        -1.2: 4, -0.72: 1, 0.0: 2, 0.64: 1, 1.12: 1
    }  # fmt: skip
    assert {round(1.2 + k / 10, 1): n for k, n in enumerate(up) if n} == {1.5: 5, 2.0: 3, 2.9: 1}


def test_profile_of_a_small_box_does_not_extend_beyond_its_ends() -> None:
    box = np.array([5.0, 0.0, 0.9, 0.8, 0.7, 1.8, 0.0], np.float32)
    points = np.array([[5.1, 0.1, 1.0, 0.0], [6.5, 0.1, 1.0, 0.0]], np.float32)
    profile = compute_roi_features(box[None], PointIndex.build(points, 20.0))[3][0]
    assert np.rint(10 ** profile[2 : 2 + LONGITUDINAL_CELLS] - 1).sum() == 1


@pytest.mark.parametrize("heading", [0.0, np.pi])
def test_face_is_the_end_towards_the_sensor_without_protruding_parts(heading: float) -> None:
    # A bus ahead. The proposal is 1 m too short at the far end and 0.4 m at the near end.
    box = np.array([16.0, 1.0, 1.5, 8.0, 2.6, 3.0, heading], np.float32)
    rng = np.random.default_rng(4)
    rear = np.column_stack(
        [rng.uniform(11.58, 11.62, 80), rng.uniform(-0.2, 2.2, 80), rng.uniform(0.5, 2.9, 80)]
    )
    rear[:3, 1:] = (-0.24, 2.0), (2.25, 2.0), (1.0, 3.02)  # extreme points
    others = np.array(
        [
            *[[11.2, 0.5, 1.0 + k / 10] for k in range(5)],  # a protruding part
            *[[x, -0.3, 1.5] for x in (13.0, 15.0, 17.0)],  # the side
            [10.9, 1.0, 3.4],  # another object behind the bus
            [11.6, 1.0, 0.1],  # the ground
        ]
    )
    points = np.zeros((len(rear) + len(others), 4), np.float32)
    points[:, :3] = np.concatenate([rear, others])
    face = compute_roi_features(box[None], PointIndex.build(points, 30.0))[3][0, -FACE_FEATURES:]
    assert np.rint(10 ** face[0] - 1) == 80
    assert abs(face[1] - 0.4) <= 0.02 + FACE_BIN
    across = [-1.24, 1.25] if heading == 0.0 else [-1.25, 1.24]
    np.testing.assert_allclose(face[2:], [*across, 3.02], atol=1e-5)


def test_all_returns_of_a_dense_face_are_counted() -> None:
    box = np.array([8.0, 0.0, 1.5, 9.0, 2.5, 3.0, 0.0], np.float32)
    points = np.zeros((1000, 4), np.float32)
    points[:, 0], points[:, 1] = 3.5, np.linspace(-1.2, 1.2, 1000)
    points[:, 2] = np.linspace(0.5, 2.9, 1000)
    face = compute_roi_features(box[None], PointIndex.build(points, 30.0))[3][0, -FACE_FEATURES:]
    expected = [np.log10(1001.0), 0.0, -1.2, 1.2, 2.9]
    np.testing.assert_allclose(face, expected, atol=FACE_BIN)
