"""The synthetic frame has every sensor of a rig, is reproducible, and moves with the steps."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.sample_frame import BOXES, sample_frame


@pytest.mark.parametrize("name", ["simulation", "car", "amr", "kitti", "near_field"])
def test_every_sensor_of_a_rig_has_a_calibrated_reading(name: str) -> None:
    rig = load_rig(resolve_rig_path(name))
    frame = sample_frame(rig)
    assert frame.present == set(rig.sensors) and not frame.missing
    assert set(frame.base_from_sensor) == set(rig.sensors)
    for image in (*frame.cameras.values(), *frame.thermals.values()):
        camera = frame.intrinsics[image.sensor]
        assert image.pixels.shape[:2] == (camera.height, camera.width)
        assert image.pixels.std() > 10  # not flat


def test_same_arguments_give_the_same_frame_and_steps_move_the_vehicle() -> None:
    rig = load_rig(resolve_rig_path("kitti"))
    first, again, later = sample_frame(rig), sample_frame(rig), sample_frame(rig, 4)
    for a, b in zip(first.readings.values(), again.readings.values(), strict=True):
        np.testing.assert_array_equal(
            getattr(a, "points", getattr(a, "pixels", None)),
            getattr(b, "points", getattr(b, "pixels", None)),
        )
    assert first.odom_from_base is not None and later.odom_from_base is not None
    assert later.odom_from_base[0, 3] - first.odom_from_base[0, 3] == pytest.approx(2.0)


def test_points_lie_on_the_ground_or_on_the_boxes() -> None:
    rig = load_rig(resolve_rig_path("kitti"))
    frame = sample_frame(rig)
    points = frame.points_in_base()
    assert 60_000 < len(points) < 130_000
    above = points[points[:, 2] > 0.4]
    nearest = BOXES[0]
    inside = (np.abs(above[:, :2] - nearest[:2]) < nearest[3:5] / 2 + 0.15).all(axis=1)
    assert inside.sum() > 50
    assert len(segment_ground(frame).points) > 5_000
