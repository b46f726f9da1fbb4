"""Transform tree: composition, interpolation, invalid trees and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree

SECOND = 1_000_000_000


def pose(x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    return poses.from_xyz_rpy((x, y, 0.0), (0.0, 0.0, yaw))


def test_lookup_composes_transforms_in_both_directions() -> None:
    tree = TransformTree()
    tree.set("base_link", "mast", 0, pose(1.0, 0.0, math.pi / 2), static=True)
    tree.set("mast", "lidar", 0, pose(2.0, 0.0), static=True)
    tree.set("base_link", "camera", 0, pose(0.0, 3.0), static=True)
    base_from_lidar = tree.lookup("base_link", "lidar", 5)
    assert base_from_lidar[:3, 3] == pytest.approx([1.0, 2.0, 0.0])
    camera_from_lidar = tree.lookup("camera", "lidar", 5)
    assert camera_from_lidar[:3, 3] == pytest.approx([1.0, -1.0, 0.0])
    assert tree.lookup("lidar", "base_link", 5) @ base_from_lidar == pytest.approx(np.eye(4))
    assert tree.lookup("lidar", "lidar", 5) == pytest.approx(np.eye(4))


def test_leading_slash_of_a_frame_id_is_ignored() -> None:
    tree = TransformTree()
    tree.set("/base_link", "/lidar", 0, pose(1.0), static=True)
    assert tree.lookup("base_link", "lidar", 0)[0, 3] == 1.0


@given(st.floats(0, 1), st.floats(-math.pi + 0.01, math.pi - 0.01))
def test_interpolation_between_stamps_is_linear(fraction: float, yaw: float) -> None:
    tree = TransformTree()
    tree.set("odom", "base_link", 0, pose(0.0))
    tree.set("odom", "base_link", SECOND, pose(10.0, 0.0, yaw))
    result = tree.lookup("odom", "base_link", round(fraction * SECOND))
    assert result[0, 3] == pytest.approx(10 * fraction, abs=1e-6)
    assert poses.to_yaw(result) == pytest.approx(fraction * yaw, abs=1e-6)


@given(st.permutations(range(8)))
def test_order_of_arrival_does_not_matter(order: list[int]) -> None:
    tree = TransformTree()
    for i in order:
        tree.set("odom", "base_link", i * SECOND, pose(float(i)))
    assert tree.lookup("odom", "base_link", 3 * SECOND + SECOND // 2)[0, 3] == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("target", "source", "stamp_s", "reason"),
    [
        ("base_link", "nowhere", 0, "unknown_frame"),
        ("base_link", "island", 0, "disconnected"),
        ("odom", "base_link", 99, "extrapolation"),
        ("odom", "base_link", -1, "extrapolation"),
    ],
)
def test_failed_lookup_raises_error_with_reason(
    target: str, source: str, stamp_s: int, reason: str
) -> None:
    tree = TransformTree()
    tree.set("odom", "base_link", 0, pose())
    tree.set("sea", "island", 0, pose(), static=True)
    with pytest.raises(TransformError) as caught:
        tree.lookup(target, source, stamp_s * SECOND)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("parent", "child"), [("c", "a"), ("a", "a"), ("b", "a")])
def test_cycle_raises_error_and_does_not_change_the_tree(parent: str, child: str) -> None:
    tree = TransformTree()
    tree.set("a", "b", 0, pose(1.0), static=True)
    tree.set("b", "c", 0, pose(1.0), static=True)
    with pytest.raises(TransformError, match="cycle"):
        tree.set(parent, child, 0, pose(), static=True)
    assert tree.lookup("a", "c", 0)[0, 3] == 2.0


def test_frame_can_change_its_parent() -> None:
    tree = TransformTree()
    tree.set("a", "b", 0, pose(1.0), static=True)
    tree.set("c", "b", 0, pose(4.0), static=True)
    assert tree.lookup("c", "b", 0)[0, 3] == 4.0


@pytest.mark.parametrize(
    "broken", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([2.0, 1, 1, 1])]
)
def test_non_rigid_transform_raises_error(broken: np.ndarray) -> None:
    with pytest.raises(TransformError, match="bad_transform"):
        TransformTree().set("a", "b", 0, broken)


def test_history_is_bounded() -> None:
    tree = TransformTree(keep_s=1.0)
    for i in range(1000):
        tree.set("odom", "base_link", i * SECOND // 10, pose(float(i)))
    assert len(tree._edges["base_link"].stamps) <= 12
    with pytest.raises(TransformError, match="extrapolation"):
        tree.lookup("odom", "base_link", 0)


def test_number_of_frames_is_bounded() -> None:
    tree = TransformTree()
    with pytest.raises(TransformError, match="too_many_frames"):
        for i in range(100_000):
            tree.set("a", f"frame{i}", 0, pose())
