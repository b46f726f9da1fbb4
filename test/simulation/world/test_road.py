"""Curved and sloping roads: the map, its inverse, and objects that stand on the ground."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import rectangle
from multimodal_perception.simulation.world.road import Road, RoadShape, divided, place_rigid
from multimodal_perception.simulation.world.scene_objects import labelled_object, object_mesh

HILLY = RoadShape((0.35, 0.1), (520.0, 250.0), (5.0, 1.2), (620.0, 240.0), 0.04, 1.3)


def test_a_road_without_amplitudes_is_straight_and_level():
    points = np.array([[12.0, -3.0, 1.0], [-700.5, 20.0, 0.0], [3000.25, 0.0, 2.0]])
    np.testing.assert_allclose(Road(RoadShape()).to_odom(points), points, atol=1e-9)


@given(st.floats(-500, 4000), st.floats(-40, 40))
def test_the_inverse_map_returns_the_strip_coordinates(s, t):
    road = Road(HILLY)
    odom = road.to_odom([[s, t, 0.7]])
    np.testing.assert_allclose(road.to_strip(odom[:, :2])[0], (s, t), atol=1e-6)


def test_the_centre_line_has_the_heading_and_the_length_of_its_parameter():
    road = Road(HILLY)
    s = np.linspace(-300.0, 2500.0, 2801)
    steps = np.diff(road.centre(s), axis=0)
    middle = (s[:-1] + s[1:]) / 2
    np.testing.assert_allclose(
        np.arctan2(steps[:, 1], steps[:, 0]), road.heading(middle), atol=1e-4
    )
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 1.0, atol=1e-5)


def test_a_road_does_not_depend_on_the_order_of_the_queries():
    one, two = Road(HILLY), Road(HILLY)
    one.centre([9000.0])
    two.centre([10.0])
    assert (one.centre([1234.5]) == two.centre([1234.5])).all()


@pytest.mark.parametrize(
    ("s", "t", "yaw"), [(0.0, 0.0, 0.0), (310.0, -6.0, 0.5), (777.0, 9.0, 3.0)]
)
def test_the_pose_of_an_object_has_the_slopes_of_the_ground(s, t, yaw):
    road = Road(HILLY)
    pose = road.pose(s, t, yaw)
    eps = 1e-4
    forward = (road.to_odom([[s + eps, t, 0]]) - road.to_odom([[s - eps, t, 0]]))[0]
    left = (road.to_odom([[s, t + eps, 0]]) - road.to_odom([[s, t - eps, 0]]))[0]
    normal = np.cross(forward, left)
    normal /= np.linalg.norm(normal)
    np.testing.assert_allclose(pose[:3, 2], normal, atol=1e-5)
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(pose[:3, 3], road.to_odom([[s, t, 0.0]])[0], atol=1e-9)


def test_the_pitch_of_a_placed_vehicle_is_the_slope_of_the_road_below_it():
    road = Road(HILLY)
    for s, yaw, sign in ((120.0, 0.0, 1.0), (120.0, np.pi, -1.0), (415.0, 0.0, 1.0)):
        car = labelled_object("suv", object_mesh("suv", 1, 0), (s - 80.0, 0.0, 0.0), yaw, 7)
        placed = place_rigid(car, road, 80.0, np.zeros(3))
        slope = float(road.slopes(s, 0.0)[0])
        assert placed.pitch == pytest.approx(sign * np.arctan(slope), abs=1e-3)
        ground = float(road.height(s, 0.0))
        assert placed.box[2] - ground == pytest.approx(placed.box[5] / 2, abs=0.01)
        # The wheels touch the ground within the deviation of the surface from its tangent plane.
        low = placed.mesh.corners.reshape(-1, 3)
        strip = road.to_strip(low[:, :2])
        clearance = low[:, 2] - road.height(strip[:, 0], strip[:, 1])
        assert -0.02 < clearance.min() < 0.02


def test_divided_triangles_cover_the_same_area_with_short_edges():
    mesh = rectangle(0, 40, -6, 6, 0.0, Material.ASPHALT)
    parts = divided(mesh, 2.0)
    edges = np.linalg.norm(np.roll(parts.corners, -1, axis=1) - parts.corners, axis=2)
    assert edges.max() <= 2.0
    cross = np.cross(
        parts.corners[:, 1] - parts.corners[:, 0], parts.corners[:, 2] - parts.corners[:, 0]
    )
    assert np.abs(cross[:, 2]).sum() / 2 == pytest.approx(480.0, rel=1e-5)
    assert (cross[:, 2] > 0).all() or (cross[:, 2] < 0).all()


def test_impossible_road_shapes_are_rejected():
    with pytest.raises(ValueError, match="wavelengths"):
        RoadShape(heading_wavelengths=(5.0, 100.0))
    with pytest.raises(ValueError, match="heading_amplitudes"):
        RoadShape(heading_amplitudes=(0.9, 0.9))
