import math

import numpy as np
import pytest

from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import inside
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.lidar import beam_table
from multimodal_perception.simulation.sensors.thermal import SimulatedThermal
from multimodal_perception.simulation.sensors.ultrasonic import SimulatedUltrasonic, nearest_echoes
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import GridLayout, true_grid
from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.meshes import block, patch
from multimodal_perception.simulation.world.placing import kind_mesh, labelled, scenic
from multimodal_perception.simulation.world.scene import Scene
from test.simulation.rigs import small_rig, street


@pytest.fixture(scope="module")
def still():
    """A noiseless drive."""
    rig = small_rig(noise=False, lidar={"motion_distortion": False})
    return Simulation(street(), rig, seed=3, frames=20)


def scene_of(simulation, index):
    return simulation._world.scene(index / simulation.rate_hz)


def off_the_mesh(scene, places, triangles):
    """Metres (N,) that places (N, 3) lie off their triangles, in double precision."""
    a, b, c = scene.soup.corners[triangles].astype(np.float64).transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.abs(np.einsum("ij,ij->i", places - a, normal))


@pytest.mark.parametrize("moves", [False, True])
def test_every_noiseless_point_lies_on_its_mesh(moves):
    rig = small_rig(noise=False, lidar={"motion_distortion": moves})
    drive = Simulation(street(), rig, seed=3, frames=20)
    (lidar,) = drive._lidars
    for index in (0, 7):
        frame, scene = drive.observe(index).frame, scene_of(drive, index)
        sweep, place = frame.lidars["lidar"], frame.base_from_sensor["lidar"]

        def pose_at(offset, index=index):
            return drive.odometry(drive.stamp_ns(index) + round(offset * 1e9))

        hits = scene.cast(lidar._rays(scene, place, pose_at))
        reach = lidar.physics.min_range, lidar.physics.max_range
        triangles = hits.triangle[(hits.distance > reach[0]) & (hits.distance < reach[1])]
        assert len(triangles) == len(sweep.points) > 3000
        places = np.empty((len(triangles), 3))
        for offset in np.unique(sweep.time_offsets):
            now = sweep.time_offsets == offset
            pose = scene.sensor_pose(pose_at(float(offset)), place)
            places[now] = poses.transform_points(pose, sweep.points[now, :3].astype(np.float64))
        assert off_the_mesh(scene, places, triangles).max() < 1e-3


def test_a_distorted_sweep_comes_right_when_deskewed():
    moving = Simulation(street(), small_rig(noise=False), seed=3, frames=20)
    raw, straight = moving.observe(5).frame.lidars["lidar"], moving[5].lidars["lidar"]
    assert np.ptp(raw.time_offsets) == pytest.approx(0.1, rel=0.01)
    frame, scene = moving[5], scene_of(moving, 5)
    pose = scene.sensor_pose(frame.odom_from_base, frame.base_from_sensor["lidar"])
    # What moves by itself is out of place in both.
    still_things = moving.truth(5).points["lidar"].instances == 0
    away = []
    for sweep in (raw, straight):
        world = poses.transform_points(pose, sweep.points[still_things, :3].astype(np.float64))
        way = world - pose[:3, 3]
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        origin = np.broadcast_to(pose[:3, 3], way.shape)
        hit = scene.cast(np.hstack([origin, way]).astype(np.float32)).triangle
        assert np.mean(hit >= 0) > 0.98
        away.append(off_the_mesh(scene, world[hit >= 0], hit[hit >= 0]))
    assert np.percentile(away[1], 95) < 0.003
    assert np.percentile(away[0], 95) > 0.05


@pytest.mark.parametrize("camera", ["camera", "fisheye"])
def test_points_fall_on_the_instance_that_they_hit(still, camera):
    checked = right = all_seen = 0
    for index in (0, 6, 12):
        observation = still.observe(index)
        frame, truth = observation.frame, observation.truth
        pose = poses.inverse(frame.base_from_sensor[camera]) @ frame.base_from_sensor["lidar"]
        points = frame.lidars["lidar"].points[:, :3].astype(np.float64)
        in_camera = poses.transform_points(pose, points)
        pixels, seen = frame.intrinsics[camera].project(in_camera)
        view = truth.views[camera]
        rows, columns = view.depth.shape
        u, v = np.rint(np.where(seen[:, None], pixels, 0)).astype(int).T
        seen &= (u > 0) & (v > 0) & (u < columns - 1) & (v < rows - 1)
        u, v, distance = u[seen], v[seen], np.linalg.norm(in_camera[seen], axis=1)
        # Along the ray: a fisheye sees sideways, where depth along its axis says little.
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
        along = frame.intrinsics[camera].unproject(grid)[:, 2].reshape(rows, columns)
        reach = view.depth / np.where(np.abs(along) > 1e-3, along, np.nan)
        hit = truth.points["lidar"].instances[seen]
        kind = truth.points["lidar"].semantics[seen]
        offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        instances = np.array([view.instances[v + i, u + j] for i, j in offsets])
        kinds = np.array([view.semantics[v + i, u + j] for i, j in offsets])
        away = np.array([reach[v + i, u + j] for i, j in offsets])
        inner = (instances == instances[0]).all(axis=0) & (kinds == kinds[0]).all(axis=0)
        # What is behind, as the camera has it, or too thin for a pixel is not its to tell.
        inner &= (distance < away.max(axis=0) * 1.01 + 0.05) & (
            distance > away.min(axis=0) * 0.99 - 0.05
        )
        checked += int(inner.sum())
        all_seen += len(inner)
        right += int(((instances[4] == hit) & (kinds[4] == kind))[inner].sum())
    assert checked > 0.5 * all_seen > 600
    assert right / checked > 0.995


def test_boxes_contain_their_points(still):
    observation = still.observe(4)
    truth, frame = observation.truth, observation.frame
    cloud = frame.points_in_base()
    instances = truth.points["lidar"].instances
    counted = 0
    for i, track in enumerate(truth.boxes.track_ids):
        own = cloud[instances == track]
        assert len(own) == truth.boxes.num_points[i]
        grown = truth.boxes.boxes[i] + np.array([0, 0, 0, 0.004, 0.004, 0.004, 0])
        assert inside(own, grown).all()
        counted += len(own)
    assert counted > 200
    assert len(set(truth.boxes.track_ids.tolist())) == len(truth.boxes)


def test_truth_agrees_with_itself(still):
    truth = still.truth(4)
    assert ((truth.visibility >= 0) & (truth.visibility <= 1)).all()
    # Who has points is in sight, if only a little.
    assert (truth.visibility[truth.boxes.num_points > 50] > 0).all()
    grid = truth.occupancy
    assert set(np.unique(grid.free)) <= {0, 1}
    assert (grid.free + grid.occupied <= 1).all()
    assert 0.02 < grid.free.mean() < 0.9 and grid.occupied.sum() > 50
    n = grid.free.shape[0]
    assert grid.free[n // 2, n // 2 + 12] == 1  # the way ahead of the bumper
    for view in truth.views.values():
        assert view.semantics.max() < len(SEMANTIC_NAMES)
        labelled = view.instances > 0
        assert (view.semantics[labelled] < len(CLASS_NAMES)).all()


def test_a_house_behind_a_car_is_occupied_and_a_yard_behind_the_house_unknown():
    """The ground between is hidden by the car, and a ray down into the house meets its floor."""
    road = scenic(patch(-40, 40, -40, 40, 0.0, Material.ASPHALT), "road")
    house = scenic(scenery.building(20.0, 8.0, 3, True, False).placed((-10, 10, 0)), "building")
    car = labelled("car", kind_mesh("car", 0, 0), (0, 7.5, 0), 0.0, 1)
    scene, layout = Scene.of([road, house, car]), GridLayout(20.0, 0.25)
    grid, _ = true_grid(scene, np.eye(4), [np.array([0, 0, 1.8])], layout, 0, "base_link")
    front = grid.occupied[int((10.2 + 20) / 0.25), 60:100]
    assert front.mean() > 0.9
    assert grid.free[int((9.5 + 20) / 0.25), 76:84].sum() == 0  # the car hides the ground here
    yard = slice(int((18.5 + 20) / 0.25), None)
    assert grid.free[yard, 70:90].sum() == 0 and grid.occupied[yard, 70:90].sum() == 0


def test_a_fisheye_projects_and_unprojects(still):
    model = still[0].intrinsics["fisheye"]
    pixels = np.random.default_rng(0).uniform((5, 5), (150, 110), (500, 2))
    again, seen = model.project(model.unproject(pixels) * 7.0)
    assert seen.all()
    np.testing.assert_allclose(again, pixels, atol=1e-6)


def sonar(**physics):
    rig = small_rig(noise=False, sonar=physics)
    return SimulatedUltrasonic(rig.sensors["sonar"])


def heard(sensor, *things, pose=None):
    pose = poses.from_xyz_rpy((0, 0, 1.0)) if pose is None else pose
    echo = nearest_echoes([sensor], Scene.of(list(things)), {sensor.name: pose})[sensor.name]
    return sensor.reading(echo, (), 0, np.random.default_rng(0)).range_m


def wall(x, material=Material.CONCRETE, y0=-3, y1=3):
    return scenic(block((x, y0, 0), (x + 0.2, y1, 3), material), "wall")


@pytest.mark.parametrize("distance", [0.2, 0.5, 1.0, 2.34, 4.0])
def test_an_ultrasonic_says_the_nearest_hit_in_its_cone(distance):
    sensor = sonar(rays=2000, resolution=0.01)
    assert heard(sensor, wall(distance)) == pytest.approx(distance, abs=0.011)
    assert heard(sensor, wall(distance), wall(distance + 0.4)) == pytest.approx(distance, abs=0.011)


def test_an_ultrasonic_follows_rep_117():
    assert heard(sonar(), wall(0.05)) == -math.inf
    assert heard(sonar(), wall(6.0)) == math.inf
    beside = wall(1.0, y0=4.0, y1=6.0)
    assert heard(sonar(), beside) == math.inf


def test_the_road_under_a_bumper_is_not_heard():
    road = scenic(patch(-20, 20, -20, 20, 0.0, Material.ASPHALT), "road")
    bumper = poses.from_xyz_rpy((0, 0, 0.5))
    assert heard(sonar(), road, pose=bumper) == math.inf
    assert heard(sonar(), road, wall(2.0), pose=bumper) == pytest.approx(2.0, abs=0.011)


def test_a_slanted_wall_and_soft_cloth_are_heard_less():
    turned = poses.from_xyz_rpy((0, 0, 1.0), (0, 0, math.radians(80)))
    assert heard(sonar(), wall(1.5), pose=turned) == math.inf
    assert heard(sonar(threshold=0.03), wall(4.0, Material.CLOTH)) == math.inf
    assert heard(sonar(threshold=0.03), wall(4.0)) == pytest.approx(4.0, abs=0.05)


def test_an_ultrasonic_in_the_street_hears_the_nearest_loud_hit(still):
    observation = still.observe(2)
    scene = scene_of(still, 2)
    pose = scene.sensor_pose(observation.frame.odom_from_base, still._places["sonar"])
    fine = nearest_echoes([sonar(rays=20000)], scene, {"sonar": pose})["sonar"]
    coarse = observation.truth.echoes["sonar"]
    assert coarse >= fine - 1e-6
    assert coarse == pytest.approx(fine, abs=0.01)  # its resolution


def test_beam_tables_are_those_of_the_manuals():
    assert beam_table("hdl64")[[0, -1]] == pytest.approx([2.0, -24.33], abs=0.01)
    assert beam_table("hdl32")[[0, -1]] == pytest.approx([10.67, -30.67], abs=0.01)
    assert beam_table("vlp16")[[0, -1]] == pytest.approx([15.0, -15.0])
    for model, rings in (("hdl64", 64), ("hdl32", 32), ("vlp16", 16)):
        assert len(beam_table(model)) == rings
        assert (np.diff(beam_table(model)) < 0).all()


def test_fewer_points_come_back_through_fog_and_rain():
    counts = []
    for words in ((), ("rain=40",), ("fog=40",)):
        drive = Simulation(street(), small_rig(), 3, 5, words)
        sweep = drive.observe(0)
        far = np.linalg.norm(sweep.frame.lidars["lidar"].points[:, :3], axis=1) > 25
        counts.append(int(far.sum()))
    assert counts[0] > counts[1] > counts[2]


def test_the_thermal_camera_sees_what_is_warm():
    rig = small_rig(noise=False)
    sensor = rig.sensors["thermal"]
    camera = SimulatedThermal(sensor, sensor.intrinsics.camera_model())
    skin = scenic(block((4, -0.5, 0), (4.2, 0.5, 2.5), Material.SKIN), "pedestrian")
    pose = sensor.base_from_sensor()
    dark = Conditions(sun_elevation=-30, air_kelvin=285.0)
    image, view = camera.take(Scene.of([skin]), pose, dark, False, np.random.default_rng(0))
    kelvin = image * 0.01
    person = view.semantics == SEMANTIC_NAMES.index("pedestrian")
    assert 299 < kelvin[person].max() < 306  # 32 degrees, by an emissivity of 0.98
    assert kelvin[0, 40] < 280  # the sky
    assert view.depth[32, 40] == pytest.approx(3.6, abs=1e-3)
