"""Frames of the simulation rig: reproducible, with all modalities, and consistent with their labels."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig, load_rig
from multimodal_perception.simulation.simulation import Simulation


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(share_path("config", "rigs", "simulation.yaml"))


def test_one_seed_gives_the_same_frames_in_any_order(rig: Rig) -> None:
    first, second = (Simulation("urban_street", rig, seed=3, frames=2) for _ in range(2))
    late, early = first[1], first[0]
    for ours, theirs in ((early, second[0]), (late, second[1])):
        assert ours.present == theirs.present
        assert len({*ours.lidars, *ours.cameras, *ours.thermals, *ours.ultrasonics}) == 16
        for name in ours.lidars:
            assert np.array_equal(ours.lidars[name].points, theirs.lidars[name].points)
        for name in ours.cameras:
            assert np.array_equal(ours.cameras[name].pixels, theirs.cameras[name].pixels)
        for name in ours.thermals:
            assert np.array_equal(ours.thermals[name].pixels, theirs.thermals[name].pixels)
    assert not np.array_equal(early.lidars["lidar"].points, late.lidars["lidar"].points)


def test_another_seed_gives_another_street(rig: Rig) -> None:
    one, other = (Simulation("urban_street", rig, seed=s, frames=1)[0] for s in (1, 2))
    assert not np.array_equal(one.lidars["lidar"].points, other.lidars["lidar"].points)


def test_labels_contain_their_number_of_points(rig: Rig) -> None:
    frame = Simulation("urban_street", rig, seed=3, frames=1)[0]
    assert frame.labels is not None and frame.labels.num_points is not None
    has_points = frame.labels.num_points >= 50
    assert has_points.sum() >= 3
    inside = count_points_in_boxes(frame.points_in_base(), frame.labels.boxes, 0.1)
    assert (inside[has_points] >= 0.8 * frame.labels.num_points[has_points]).all()


def test_an_unknown_scenario_is_named_in_the_error(rig: Rig) -> None:
    with pytest.raises(UserError, match="no_such_place"):
        Simulation("no_such_place", rig)
