"""Ground truth: boxes, visibility and grids."""

import numpy as np

from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import points_in_box
from multimodal_perception.simulation.truth import GridLayout, ground_truth_grid
from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.meshes import rectangle
from multimodal_perception.simulation.world.scene import Scene
from multimodal_perception.simulation.world.scene_objects import (
    labelled_object,
    object_mesh,
    scenery_object,
)


def test_boxes_contain_their_points(noiseless_drive):
    observation = noiseless_drive.observe(4)
    truth, frame = observation.truth, observation.frame
    cloud = frame.points_in_base()
    instances = truth.points["lidar"].instances
    counted = 0
    for i, track in enumerate(truth.boxes.track_ids):
        own = cloud[instances == track]
        assert len(own) == truth.boxes.num_points[i]
        grown = truth.boxes.boxes[i] + np.array([0, 0, 0, 0.004, 0.004, 0.004, 0])
        assert points_in_box(own, grown).all()
        counted += len(own)
    assert counted > 200
    assert len(set(truth.boxes.track_ids.tolist())) == len(truth.boxes)


def test_ground_truth_is_consistent(noiseless_drive):
    truth = noiseless_drive.truth(4)
    assert ((truth.visibility >= 0) & (truth.visibility <= 1)).all()
    # Objects with points are at least partly visible.
    assert (truth.visibility[truth.boxes.num_points > 50] > 0).all()
    grid = truth.occupancy
    assert set(np.unique(grid.free)) <= {0, 1}
    assert (grid.free + grid.occupied <= 1).all()
    assert 0.02 < grid.free.mean() < 0.9 and grid.occupied.sum() > 50
    n = grid.free.shape[0]
    assert grid.free[n // 2, n // 2 + 12] == 1  # free space in front of the bumper
    for view in truth.views.values():
        assert view.semantics.max() < len(SEMANTIC_NAMES)
        is_labelled = view.instances > 0
        assert (view.semantics[is_labelled] < len(CLASS_NAMES)).all()


def test_a_house_behind_a_car_is_occupied_and_the_yard_behind_it_is_unknown():
    """The car occludes the ground in front of the house, whose walls are visible above the car."""
    road = scenery_object(rectangle(-40, 40, -40, 40, 0.0, Material.ASPHALT), "road")
    house = scenery_object(
        scenery.building(20.0, 8.0, 3, True, False).moved_to((-10, 10, 0)), "building"
    )
    car = labelled_object("car", object_mesh("car", 0, 0), (0, 7.5, 0), 0.0, 1)
    scene, layout = Scene.from_objects([road, house, car]), GridLayout(20.0, 0.25)
    grid, _ = ground_truth_grid(scene, np.eye(4), [np.array([0, 0, 1.8])], layout, 0, "base_link")
    front = grid.occupied[int((10.2 + 20) / 0.25), 60:100]
    assert front.mean() > 0.9
    assert grid.free[int((9.5 + 20) / 0.25), 76:84].sum() == 0  # the car occludes the ground here
    yard = slice(int((18.5 + 20) / 0.25), None)
    assert grid.free[yard, 70:90].sum() == 0 and grid.occupied[yard, 70:90].sum() == 0
