"""The synthetic street: exact geometry and labels, reproducible for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.geometry.boxes import points_in_box


@pytest.fixture(scope="module")
def street() -> SyntheticDataset:
    return SyntheticDataset(frames=3, rings=32, columns=600)


def test_same_seed_gives_the_same_frames(street: SyntheticDataset) -> None:
    again = SyntheticDataset(frames=3, rings=32, columns=600)
    for a, b in zip(street, again, strict=True):
        assert np.array_equal(a.lidars["lidar"].points, b.lidars["lidar"].points)
        assert np.array_equal(a.cameras["camera"].pixels, b.cameras["camera"].pixels)


def test_no_point_lies_inside_a_solid_or_below_the_road(street: SyntheticDataset) -> None:
    frame = street[1]
    points = frame.points_in_base()
    assert points[:, 2].min() > -0.1
    assert frame.labels is not None
    for box in frame.labels.boxes:
        shrunk = box.copy()
        shrunk[3:6] -= 0.2
        assert not points_in_box(points, shrunk).any()


def test_image_and_sweep_agree_on_the_first_car(street: SyntheticDataset) -> None:
    frame = street[0]
    points = frame.points_in_base()
    assert frame.labels is not None
    car = frame.labels.boxes[0]
    on_car = points[points_in_box(points, car + np.array([0, 0, 0, 0.2, 0.2, 0.2, 0]))]
    camera_from_base = np.linalg.inv(frame.base_from_sensor["camera"])
    optical = on_car[:, :3] @ camera_from_base[:3, :3].T + camera_from_base[:3, 3]
    pixels, visible = frame.intrinsics["camera"].project(optical)
    colours = frame.cameras["camera"].pixels[
        np.rint(pixels[visible, 1]).astype(int), np.rint(pixels[visible, 0]).astype(int)
    ]
    red = (colours[:, 0] > 1.8 * colours[:, 1]).mean()
    assert red > 0.9  # the first car is red


def test_frames_have_stamps_at_10_hz(street: SyntheticDataset) -> None:
    assert [f.stamp_ns for f in street] == [street[0].stamp_ns + i * 100_000_000 for i in range(3)]
    with pytest.raises(IndexError):
        street[3]
