import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.simulation.world import people, scenery, vehicles
from multimodal_perception.simulation.world.materials import (
    MATERIAL_TABLE,
    Material,
    MaterialProperty,
)
from multimodal_perception.simulation.world.meshes import Mesh, cuboid, merge
from multimodal_perception.simulation.world.scene_objects import labelled_object, object_mesh

VEHICLE_SHAPES = [
    (vehicle_class, i)
    for vehicle_class, shapes in vehicles.VEHICLE_SHAPES.items()
    for i in range(len(shapes))
]


def area(mesh: Mesh) -> float:
    edges = mesh.corners[:, 1:] - mesh.corners[:, :1]
    return float(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1).sum() / 2)


@pytest.mark.parametrize(("vehicle_class", "variant"), VEHICLE_SHAPES)
def test_a_vehicle_has_the_size_of_its_shape_and_stands_on_the_ground(vehicle_class, variant):
    mesh = vehicles.vehicle_mesh(vehicle_class, variant)
    low, high = mesh.bounds()
    np.testing.assert_allclose(
        high - low, vehicles.VEHICLE_SHAPES[vehicle_class][variant].size, atol=1e-5
    )
    assert abs(low[2]) < 1e-6


@pytest.mark.parametrize(("vehicle_class", "variant"), VEHICLE_SHAPES)
def test_a_vehicle_has_detailed_materials_and_surface(vehicle_class, variant):
    length, width, height = vehicles.VEHICLE_SHAPES[vehicle_class][variant].size
    mesh = vehicles.vehicle_mesh(vehicle_class, variant)
    materials = set(mesh.materials.tolist())
    assert {Material.GLASS, Material.TYRE, Material.HEADLAMP, Material.TAIL_LAMP} <= materials
    box = 2 * (length * width + length * height + width * height)
    assert 0.5 * box < area(mesh) < 2.2 * box


@pytest.mark.parametrize("variant", range(len(people.HEIGHTS)))
@pytest.mark.parametrize("phase", range(people.GAIT_PHASES))
def test_a_pedestrian_keeps_its_height_in_every_gait_phase(variant, phase):
    low, high = people.pedestrian_mesh(variant, phase).bounds()
    assert -0.02 <= low[2] <= 0.1
    assert abs(high[2] - people.HEIGHTS[variant]) < 0.05
    assert high[1] - low[1] < 0.8


def test_pedestrians_differ_in_clothing_and_build():
    boxes = [
        np.ptp(people.pedestrian_mesh(v, 0, False).bounds(), axis=0)
        for v in range(people.PEDESTRIAN_VARIANTS)
    ]
    assert len(np.unique(np.round(boxes, 3), axis=0)) > 60
    length, width, height = np.transpose(boxes)
    assert length.min() > 0.2 and 0.5 < length.max() < 0.9  # larger with a rucksack
    assert width.min() > 0.4 and width.max() < 0.85
    assert np.ptp(height) == pytest.approx(max(people.HEIGHTS) - min(people.HEIGHTS), abs=0.05)


def test_a_cyclist_is_as_long_as_a_bicycle():
    low, high = people.cyclist_mesh(0, 3).bounds()
    assert 1.6 < high[0] - low[0] < 1.9
    assert 1.6 < high[2] < 2.0


@pytest.mark.parametrize(
    "mesh",
    [
        scenery.tree(1),
        scenery.cone(),
        scenery.barrier(),
        scenery.pallet_rack(2),
        scenery.forklift(),
        scenery.street_lamp(),
        scenery.building(12.0, 9.0, 3, True, True),
        people.pedestrian_mesh(0, 2),
        vehicles.vehicle_mesh("bus", 0),
    ],
)
def test_meshes_are_finite_with_unit_normals_and_known_materials(mesh):
    assert len(mesh) > 0
    assert np.isfinite(mesh.corners).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1.0, atol=1e-3)
    assert mesh.materials.max() < len(Material)


def test_a_cuboid_has_the_area_of_its_faces():
    mesh = cuboid((1, 2, 3), (3, 5, 7), Material.CONCRETE)
    assert area(mesh) == pytest.approx(2 * (2 * 3 + 2 * 4 + 3 * 4))
    assert len(merge([])) == 0


def test_material_properties_are_in_the_physical_range():
    for column in (
        MaterialProperty.EMISSIVITY,
        MaterialProperty.REFLECTIVITY,
        MaterialProperty.TRANSMISSION,
        MaterialProperty.ULTRASONIC_REFLECTION,
    ):
        values = MATERIAL_TABLE[:, column]
        assert ((values >= 0) & (values <= 1)).all()
    assert (MATERIAL_TABLE[:, MaterialProperty.EMISSIVITY] > 0.5).all()


@settings(max_examples=30)
@given(
    st.sampled_from(["car", "van", "truck", "bus", "pedestrian", "cyclist", "cone", "barrier"]),
    st.integers(0, 30),
    st.floats(-3.1, 3.1),
    st.floats(-100, 100),
)
def test_a_box_contains_its_mesh(object_class, variant, yaw, x):
    scene_object = labelled_object(
        object_class, object_mesh(object_class, variant, variant), (x, 3.0, 0.1), yaw, 1
    )
    cx, cy, cz, length, width, height, heading = scene_object.box
    offset = scene_object.mesh.corners.reshape(-1, 3) - (cx, cy, cz)
    c, s = np.cos(heading), np.sin(heading)
    assert np.abs(c * offset[:, 0] + s * offset[:, 1]).max() < length / 2 + 1e-3
    assert np.abs(c * offset[:, 1] - s * offset[:, 0]).max() < width / 2 + 1e-3
    assert np.abs(offset[:, 2]).max() < height / 2 + 1e-3
