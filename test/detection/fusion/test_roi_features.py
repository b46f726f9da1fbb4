"""The grid in a proposal: its places, its counts and means against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.fusion.roi_features import (
    ACROSS,
    ALONG,
    FACE,
    FACE_CELL,
    GROWTH,
    LOW,
    MARGIN,
    PointIndex,
    proposal_grid,
)


def test_grid_of_a_turned_box() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-12, 12, (20_000, 4)).astype(np.float32)
    points[:, 2] = rng.uniform(-1, 3, len(points))
    box = np.array([4.0, -3.0, 0.8, 4.4, 1.8, 1.6, 0.7], np.float32)
    features, places, _, _ = proposal_grid(box[None], PointIndex.of(points, 10.0))
    c, s = np.cos(box[6]), np.sin(box[6])
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    np.testing.assert_allclose(places[0], features[0, :, :3] @ turn.T + box[:3], atol=1e-5)
    on_grid = points[(np.abs(points[:, :2]) < 10.0).all(axis=1), :3]
    local = (on_grid - box[:3]) @ turn
    side = box[3:6] * GROWTH + 2 * MARGIN
    cell = np.floor((local / side + 0.5) * 6).astype(int)
    within = ((cell >= 0) & (cell < 6)).all(axis=1)
    number = (cell[:, 0] * 6 + cell[:, 1]) * 6 + cell[:, 2]
    for q in range(0, 216, 7):
        mine = local[within & (number == q)]
        np.testing.assert_allclose(features[0, q, 3], np.log10(len(mine) + 0.5), atol=1e-5)
        mean = mine.mean(axis=0) if len(mine) else np.zeros(3)
        np.testing.assert_allclose(features[0, q, 4:], mean, atol=2e-4)


def test_no_points_and_boxes_off_the_square() -> None:
    boxes = np.array([[0, 0, 0, 4, 2, 1.5, 0], [500, -500, 0, 4, 2, 1.5, 1]], np.float32)
    features, _, reach, outline = proposal_grid(
        boxes, PointIndex.of(np.zeros((0, 4), np.float32), 10.0)
    )
    np.testing.assert_allclose(features[..., 3], np.log10(0.5), atol=1e-6)
    assert (features[..., 4:] == 0).all()
    np.testing.assert_allclose(reach, [[0, 0, 0, 0, 0, np.log10(0.5)]] * 2, atol=1e-6)
    assert (outline[:, 2:] == 0).all()


def test_reach_tells_where_returns_end_and_leaves_out_the_ground_and_what_stands_beside() -> None:
    rng = np.random.default_rng(5)
    box = np.array([5.0, 2.0, 1.5, 10.0, 2.5, 3.0, 0.6], np.float32)
    # The bus goes from -5.2 to 3.9 m along, its near side is seen; on it, before it and beside it, in
    # the box's frame.
    wall = np.column_stack(
        [rng.uniform(-5.2, 3.9, 4000), np.full(4000, -1.2), rng.uniform(-1, 1.3, 4000)]
    )
    wall[:2, 0] = -5.2, 3.9
    wall[2, 2] = 1.3
    ground = np.column_stack([rng.uniform(-5.5, 5.5, (4000, 2)), np.full(4000, -1.49 + LOW / 2)])
    beside = np.array([[5.4, 1.41, 0.0], [0.0, 1.36, 0.0], [5.3, -1.41, 0.5]])
    c, s = np.cos(box[6]), np.sin(box[6])
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    local = np.concatenate([wall, ground, beside])
    points = np.zeros((len(local), 4), np.float32)
    points[:, :3] = local @ turn.T + box[:3]
    reach = proposal_grid(box[None], PointIndex.of(points, 20.0))[2][0]
    ends = [-5.2 / 10, 3.9 / 10, -1.2 / 2.5, 1.36 / 2.5, 1.3 / 3]
    np.testing.assert_allclose(reach[:5], ends, atol=1e-4)
    assert reach[5] == np.float32(np.log10(4003.5))


def test_a_box_without_size_has_a_finite_reach() -> None:
    points = np.array([[0.1, 0.0, 0.5, 1.0]], np.float32)
    box = np.zeros((1, 7), np.float32)
    assert all(np.isfinite(a).all() for a in proposal_grid(box, PointIndex.of(points, 10.0)))


def test_outline_counts_by_half_metres_along_eight_centimetres_across_and_ten_up() -> None:
    # A bus on the left that drives as we do: its rear, its side, and its front end beyond the proposal.
    box = np.array([10.0, 4.0, 1.5, 9.0, 2.5, 3.0, 0.0], np.float32)
    local = np.array(
        [
            *[[-4.4, y, 0.0] for y in (-1.18, -0.7, 0.0, 0.7, 1.18)],  # the rear
            *[[x, -1.18, 0.5] for x in (-2.1, 0.1, 2.3, 6.9)],  # the side, 2.4 m beyond the front
            [-4.4, 0.0, 1.44],  # the roof's edge, 2.94 m above the ground
            [-4.4, 0.0, -1.4],  # the ground: too low
            [0.0, 1.7, 0.0],  # beside it
            [8.5, 0.0, 0.0],  # too far before it
        ]
    )
    points = np.zeros((len(local), 4), np.float32)
    points[:, :3] = local + box[:3]
    outline = proposal_grid(box[None], PointIndex.of(points, 30.0))[3][0]
    away = np.hypot(10.0, 4.0)
    np.testing.assert_allclose(outline[:2], [-10.0 / away, -4.0 / away], atol=1e-6)
    counts = np.rint(10 ** outline[2:-FACE] - 1).astype(int)
    along, across, up = np.split(counts, [ALONG, ALONG + ACROSS])
    # Cells by their lower ends, metres.
    assert {k / 2 - 8: n for k, n in enumerate(along) if n} == {
        -4.5: 6, -2.5: 1, 0.0: 1, 2.0: 1, 6.5: 1
    }  # fmt: skip
    assert {round(k * 0.08 - 1.6, 2): n for k, n in enumerate(across) if n} == {
        -1.2: 4, -0.72: 1, 0.0: 2, 0.64: 1, 1.12: 1
    }  # fmt: skip
    assert {round(1.2 + k / 10, 1): n for k, n in enumerate(up) if n} == {1.5: 5, 2.0: 3, 2.9: 1}


def test_the_outline_of_a_person_is_not_what_stands_before_it() -> None:
    box = np.array([5.0, 0.0, 0.9, 0.8, 0.7, 1.8, 0.0], np.float32)
    points = np.array([[5.1, 0.1, 1.0, 0.0], [6.5, 0.1, 1.0, 0.0]], np.float32)
    outline = proposal_grid(box[None], PointIndex.of(points, 20.0))[3][0]
    assert np.rint(10 ** outline[2 : 2 + ALONG] - 1).sum() == 1


@pytest.mark.parametrize("heading", [0.0, np.pi])
def test_the_face_is_the_end_towards_the_sensor_whatever_juts_out_of_it(heading: float) -> None:
    # A bus before the vehicle, proposed 1 m too short at its far end and 0.4 m at its near one.
    box = np.array([16.0, 1.0, 1.5, 8.0, 2.6, 3.0, heading], np.float32)
    rng = np.random.default_rng(4)
    rear = np.column_stack(
        [rng.uniform(11.58, 11.62, 80), rng.uniform(-0.2, 2.2, 80), rng.uniform(0.5, 2.9, 80)]
    )
    rear[:3, 1:] = (-0.24, 2.0), (2.25, 2.0), (1.0, 3.02)  # its edges
    others = np.array(
        [
            *[[11.2, 0.5, 1.0 + k / 10] for k in range(5)],  # what juts out behind it
            *[[x, -0.3, 1.5] for x in (13.0, 15.0, 17.0)],  # its side
            [10.9, 1.0, 3.4],  # of what comes behind it
            [11.6, 1.0, 0.1],  # the ground
        ]
    )
    points = np.zeros((len(rear) + len(others), 4), np.float32)
    points[:, :3] = np.concatenate([rear, others])
    face = proposal_grid(box[None], PointIndex.of(points, 30.0))[3][0, -FACE:]
    assert np.rint(10 ** face[0] - 1) == 80
    assert abs(face[1] - 0.4) <= 0.02 + FACE_CELL
    across = [-1.24, 1.25] if heading == 0.0 else [-1.25, 1.24]
    np.testing.assert_allclose(face[2:], [*across, 3.02], atol=1e-5)


def test_a_thousand_returns_of_a_face_all_count() -> None:
    box = np.array([8.0, 0.0, 1.5, 9.0, 2.5, 3.0, 0.0], np.float32)
    points = np.zeros((1000, 4), np.float32)
    points[:, 0], points[:, 1] = 3.5, np.linspace(-1.2, 1.2, 1000)
    points[:, 2] = np.linspace(0.5, 2.9, 1000)
    face = proposal_grid(box[None], PointIndex.of(points, 30.0))[3][0, -FACE:]
    expected = [np.log10(1001.0), 0.0, -1.2, 1.2, 2.9]
    np.testing.assert_allclose(face, expected, atol=FACE_CELL)
