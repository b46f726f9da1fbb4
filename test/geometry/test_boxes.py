"""3D boxes compared with closed forms, OpenCV's rotated rectangles and exact polygon intersections."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, QhullError

from multimodal_perception.geometry import boxes, poses


def box(x=0.0, y=0.0, z=0.0, length=4.0, width=2.0, height=1.5, yaw=0.0):
    return np.array([x, y, z, length, width, height, yaw])


coordinate, size = st.floats(-3, 3), st.floats(0.2, 6)
some_box = st.builds(box, coordinate, coordinate, coordinate, size, size, size, st.floats(-7, 7))


def common_area(a, b):
    """Intersection area of two footprints: hull of inner corners and edge crossings."""
    first, second = (boxes.corners(v)[0, :4, :2] for v in (a, b))
    # Enlarged slightly, to include corners on an edge of the other box.
    flat_a, flat_b = (box(*v[:2], 0, *v[3:5] + 1e-9, 1, v[6]) for v in (a, b))
    points = [p for p in first if boxes.points_in_box(np.array([[*p, 0.0]]), flat_b)[0]]
    points += [p for p in second if boxes.points_in_box(np.array([[*p, 0.0]]), flat_a)[0]]
    for i in range(4):
        for j in range(4):
            p, r = first[i], first[(i + 1) % 4] - first[i]
            q, s = second[j], second[(j + 1) % 4] - second[j]
            cross = r[0] * s[1] - r[1] * s[0]
            if abs(cross) > 1e-12:
                d = q - p
                t, u = (d[0] * s[1] - d[1] * s[0]) / cross, (d[0] * r[1] - d[1] * r[0]) / cross
                if -1e-9 <= t <= 1 + 1e-9 and -1e-9 <= u <= 1 + 1e-9:
                    points.append(p + t * r)
    if len(points) < 3:
        return 0.0
    try:
        return ConvexHull(points).volume
    except QhullError:
        return 0.0


def test_corners_of_a_box_at_the_origin():
    expected = [
        *[(2, 1, -0.75), (-2, 1, -0.75), (-2, -1, -0.75), (2, -1, -0.75)],
        *[(2, 1, 0.75), (-2, 1, 0.75), (-2, -1, 0.75), (2, -1, 0.75)],
    ]
    np.testing.assert_allclose(boxes.corners(box()), [expected])


@given(some_box)
def test_corners_of_transformed_boxes(b):
    pose = poses.from_xyz_rpy(b[:3], (0, 0, b[6]))
    expected = poses.transform_points(pose, boxes.CORNER_SIGNS * b[3:6] / 2)
    np.testing.assert_allclose(boxes.corners(b)[0], expected, atol=1e-9)


@given(some_box)
def test_edges_connect_corners_along_one_axis(b):
    corners = boxes.corners(b)[0]
    lengths = sorted(np.linalg.norm(corners[i] - corners[j]) for i, j in boxes.EDGES)
    np.testing.assert_allclose(lengths, sorted([*b[3:6]] * 4), atol=1e-9)
    assert len({frozenset(e) for e in boxes.EDGES}) == 12


@settings(max_examples=50)
@given(st.lists(some_box, max_size=4), st.integers(0, 2**32), st.floats(0, 0.5))
def test_count_points_in_boxes_matches_local_coordinates(box_list, seed, margin):
    points = np.random.default_rng(seed).uniform(-6, 6, (300, 4)).astype(np.float32)
    counts = boxes.count_points_in_boxes(points, np.array(box_list).reshape(-1, 7), margin)
    assert counts.shape == (len(box_list),)
    for b, count in zip(box_list, counts, strict=True):
        local = poses.transform_points(
            poses.inverse(poses.from_xyz_rpy(b[:3], (0, 0, b[6]))), points[:, :3].astype(float)
        )
        half = b[3:6] / 2 + margin
        at_least = (np.abs(local) < half - 1e-5).all(axis=1).sum()
        at_most = (np.abs(local) < half + 1e-5).all(axis=1).sum()
        assert at_least <= count <= at_most
        if margin == 0:
            assert at_least <= boxes.points_in_box(points, b).sum() <= at_most


def test_margin_is_in_metres_on_every_side():
    points = np.array([[2.4, 0, 0], [2.6, 0, 0], [0, -1.4, 0], [0, -1.6, 0], [0, 0, 1.2]])
    np.testing.assert_array_equal(boxes.count_points_in_boxes(points, box(), 0.5), [3])
    np.testing.assert_array_equal(boxes.count_points_in_boxes(points, box()), [0])


def test_empty_points_and_boxes():
    assert boxes.count_points_in_boxes(np.zeros((0, 4), np.float32), box()).tolist() == [0]
    assert boxes.count_points_in_boxes(np.zeros((3, 4)), np.zeros((0, 7))).shape == (0,)
    assert boxes.corners(np.zeros((0, 7))).shape == (0, 8, 3)
    assert boxes.iou_bev(np.zeros((0, 7)), np.tile(box(), (3, 1))).shape == (0, 3)
    assert boxes.iou_3d(np.tile(box(), (2, 1)), np.zeros((0, 7))).shape == (2, 0)
    assert boxes.non_maximum_suppression(np.zeros((0, 7)), np.zeros(0), 0.5).shape == (0,)


@pytest.mark.parametrize(
    ("a", "b", "bev", "volume"),
    [
        (box(), box(), 1, 1),
        (box(), box(yaw=math.pi), 1, 1),
        (box(), box(x=2), 1 / 3, 1 / 3),
        (box(), box(y=1), 1 / 3, 1 / 3),
        (box(), box(z=0.75), 1, 1 / 3),
        (box(), box(z=1.5), 1, 0),
        (box(), box(x=4), 0, 0),
        (box(), box(x=100), 0, 0),
        (box(), box(length=2, width=1), 1 / 4, 1 / 4),
        (box(), box(length=2, width=1, height=0.75), 1 / 4, 1 / 8),
        (box(length=4, width=2), box(length=4, width=2, yaw=math.pi / 2), 1 / 3, 1 / 3),
        # The intersection with a square rotated by 45 degrees is a regular octagon.
        (box(length=1, width=1), box(length=1, width=1, yaw=math.pi / 4), 0.5**0.5, 0.5**0.5),
        (box(x=1e6), box(x=1e6 + 2), 1 / 3, 1 / 3),
    ],
)
def test_iou_in_closed_form(a, b, bev, volume):
    assert boxes.iou_bev(a, b) == pytest.approx(bev, abs=1e-9)
    assert boxes.iou_3d(a, b) == pytest.approx(volume, abs=1e-9)


@settings(max_examples=300)
@given(some_box, some_box)
def test_iou_matches_exact_polygon_intersection(a, b):
    common = common_area(a, b)
    expected = common / (a[3] * a[4] + b[3] * b[4] - common)
    assert boxes.iou_bev(a, b)[0, 0] == pytest.approx(expected, abs=1e-6)
    height = max(min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2), 0)
    volumes = a[3] * a[4] * a[5] + b[3] * b[4] * b[5]
    expected = common * height / (volumes - common * height)
    assert boxes.iou_3d(a, b)[0, 0] == pytest.approx(expected, abs=1e-6)


def test_iou_matches_opencv():
    rng = np.random.default_rng(0)
    n = 40
    sets = [
        np.column_stack(
            [rng.uniform(-4, 4, (n, 3)), rng.uniform(0.5, 5, (n, 3)), rng.uniform(-3, 3, n)]
        )
        for _ in range(2)
    ]
    expected = np.zeros((n, n))
    for i, a in enumerate(sets[0]):
        for j, b in enumerate(sets[1]):
            rectangles = [(v[:2], v[3:5], math.degrees(v[6])) for v in (a, b)]
            _, polygon = cv2.rotatedRectangleIntersection(*rectangles)
            if polygon is not None:
                common = cv2.contourArea(cv2.convexHull(polygon))
                expected[i, j] = common / (a[3] * a[4] + b[3] * b[4] - common)
    overlap = boxes.iou_bev(*sets)
    assert (expected > 0.1).sum() > 100
    np.testing.assert_allclose(overlap, expected, atol=1e-4)


@settings(max_examples=100)
@given(some_box, some_box, coordinate, coordinate, coordinate, st.floats(-7, 7))
def test_iou_is_symmetric_bounded_and_invariant_to_rigid_transforms(a, b, x, y, z, yaw):
    for overlap in (boxes.iou_bev, boxes.iou_3d):
        value = overlap(a, b)[0, 0]
        assert 0 <= value <= 1 + 1e-9
        assert overlap(b, a)[0, 0] == pytest.approx(value, abs=1e-9)
        moved = []
        for v in (a, b):
            v = v.copy()
            v[:3] = poses.transform_points(poses.from_xyz_rpy((x, y, z), (0, 0, yaw)), v[:3])
            v[6] += yaw
            moved.append(v)
        assert overlap(*moved)[0, 0] == pytest.approx(value, abs=1e-6)
    assert boxes.iou_3d(a, a)[0, 0] == pytest.approx(1)


@given(some_box)
def test_iou_of_a_box_inside_another(b):
    outer = b.copy()
    outer[3:6] *= 2
    assert boxes.iou_bev(b, outer)[0, 0] == pytest.approx(1 / 4)
    assert boxes.iou_3d(b, outer)[0, 0] == pytest.approx(1 / 8)


@settings(max_examples=200)
@given(some_box, some_box, st.sets(st.sampled_from([3, 4, 5]), min_size=1))
def test_box_without_extent_has_zero_iou(a, b, axes):
    a[list(axes)] = 0
    for other in (a, b):
        assert boxes.iou_3d(a, other)[0, 0] == pytest.approx(0, abs=1e-9)


def test_iou_of_all_pairs():
    a = np.array([box(), box(x=2), box(x=50)])
    b = np.array([box(), box(x=50)])
    expected = [[1, 0], [1 / 3, 0], [0, 1]]
    np.testing.assert_allclose(boxes.iou_bev(a, b), expected, atol=1e-9)
    np.testing.assert_allclose(boxes.iou_3d(a.astype(np.float32), b), expected, atol=1e-6)


@settings(max_examples=60)
@given(st.lists(some_box, min_size=1, max_size=12), st.floats(0, 0.9), st.integers(0, 2**32))
def test_nms_keeps_best_boxes_and_drops_only_overlapping_ones(box_list, threshold, seed):
    box_list = np.array(box_list)
    scores = np.random.default_rng(seed).uniform(0, 1, len(box_list))
    kept = boxes.non_maximum_suppression(box_list, scores, threshold)
    assert kept[0] == scores.argmax()
    assert (np.diff(scores[kept]) <= 0).all()
    overlap = boxes.iou_bev(box_list, box_list)
    for position, i in enumerate(kept):
        assert (overlap[i, kept[:position]] <= threshold).all()
    for i in set(range(len(box_list))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[i]]
        assert (overlap[i, better] > threshold).any()


def test_nms_uses_birds_eye_view_overlap():
    stacked = np.array([box(), box(z=10), box(x=10)])
    kept = boxes.non_maximum_suppression(stacked, np.array([0.5, 0.9, 0.1]), 0.5)
    np.testing.assert_array_equal(kept, [1, 2])
