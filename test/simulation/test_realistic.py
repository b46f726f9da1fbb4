"""The profile realistic: classes, queues, slopes, LiDAR returns, depth images and determinism."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import CLASS_NAMES, Modality
from multimodal_perception.geometry import poses
from multimodal_perception.simulation.profile import check_profile
from multimodal_perception.simulation.rigs import open_rig
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.lidar import SimulatedLidar
from multimodal_perception.simulation.sensors.lidar_returns import realistic_returns
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import GridLayout
from multimodal_perception.simulation.world.fleet import KIND_CLASSES, fleet_mesh
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import quad, rectangle
from multimodal_perception.simulation.world.realistic import realistic_scenario
from multimodal_perception.simulation.world.road import RoadShape
from multimodal_perception.simulation.world.scenarios import combination_extent, queue_in_lane
from multimodal_perception.simulation.world.scene import Scene, rays_from_pose
from multimodal_perception.simulation.world.scene_objects import (
    labelled_object,
    object_mesh,
    scenery_object,
)
from multimodal_perception.simulation.world.traffic import moving_bodies
from test.simulation.rigs import small_rig, street

NO_GRID = GridLayout(1.0, 1.0)


def lidar_rig():
    rig = small_rig(noise=False)
    return replace(rig, sensors=rig.sensors_of(Modality.LIDAR))


@pytest.fixture(scope="module")
def drive():
    """A drive on a hilly road."""
    shape = RoadShape((0.2, 0.1), (500.0, 260.0), (6.0, 1.0), (500.0, 250.0), 0.03, 0.4)
    scenario = replace(street(), road=shape)
    return Simulation(scenario, small_rig(noise=False), 11, 30, grid=NO_GRID, profile="realistic")


def test_all_ten_classes_occur_over_a_few_seeds():
    counts = Counter()
    for seed in range(4):
        name = ("urban_street", "intersection", "highway")[seed % 3]
        simulation = Simulation(name, lidar_rig(), seed, 2, grid=NO_GRID, profile="realistic")
        boxes = simulation.truth(1).boxes
        counts.update(CLASS_NAMES[k] for k in boxes.labels)
        assert len(set(boxes.track_ids.tolist())) == len(boxes)
    assert set(counts) >= set(CLASS_NAMES) - {"unknown"}
    assert counts["truck"] > 10 and counts["car"] > 3 * counts["truck"]


def test_pickups_trailers_and_motorcyclists_are_in_the_traffic_of_most_streets():
    kinds = Counter()
    lengths = []
    for seed in range(40):
        scenario = realistic_scenario(street(), seed)
        bodies = moving_bodies(scenario, seed, 1.0, -100.0, 100.0)
        kinds.update({body.kind for body in bodies})
        for body in bodies:
            if body.kind == "pickup":
                low, high = fleet_mesh(body.kind, body.variant).bounds()
                lengths.append((high - low)[:3])
    assert kinds["pickup"] > 20 and kinds["motorcyclist"] > 15 and kinds["box_lorry"] > 8
    assert kinds["small_trailer"] + kinds["semitrailer"] + kinds["caravan"] > 10
    assert KIND_CLASSES["pickup"] == "truck"
    length, width, height = np.array(lengths).T
    assert (length > 4.9).all() and (length < 6.7).all() and (height < 2.2).all()
    assert width.min() > 1.65 and width.max() < 2.3


def test_vehicles_in_queues_do_not_overlap_and_leave_space_for_the_ego_vehicle():
    for seed in range(12):
        scenario = realistic_scenario(street(), seed)
        for number, lane in enumerate(scenario.lanes):
            if lane.gap == 0.0:
                continue
            is_own = abs(lane.y - scenario.ego.y) < 1.5
            items = queue_in_lane(lane, seed, number, is_own, 0.0, -150.0, 150.0)
            extents = [combination_extent(i.object_class, i.variant) for _, i, _ in items]
            ends = sorted((x + a, x + b) for (_, _, x), (a, b) in zip(items, extents, strict=True))
            assert all(e[1] < f[0] for e, f in itertools.pairwise(ends))
            if is_own:
                assert not any(a < 2.4 and b > -2.4 for a, b in ends)


def test_odometry_and_boxes_follow_the_slope_of_the_road(drive):
    road = drive._world.road
    for index in (0, 25):
        truth = drive.truth(index)
        s, t, _ = drive.scenario.ego.pose_2d(index / drive.rate_hz)
        odom = truth.odom_from_base
        assert odom[2, 3] == pytest.approx(float(road.height(s, t)), abs=1e-9)
        along = float(road.slopes(s, t)[0])
        assert odom[2, 0] == pytest.approx(np.sin(np.arctan(along)), abs=0.01)
        boxes = truth.boxes.transformed(odom, "odom")
        strip = road.to_strip(boxes.boxes[:, :2])
        # Pedestrians' boxes end at their feet; all objects stand on the road or on a kerb.
        bottom = boxes.boxes[:, 2] - boxes.boxes[:, 5] / 2
        height = bottom - road.height(strip[:, 0], strip[:, 1])
        near = np.linalg.norm(truth.boxes.boxes[:, :2], axis=1) < 40.0
        assert (height[near] > -0.12).all() and (height[near] < 0.3).all()
    assert abs(drive.truth(25).odom_from_base[2, 3]) > 0.2


def test_the_slope_between_boxes_equals_that_of_the_road(drive):
    """The pitch of parked and moving vehicles relative to the ego vehicle follows from the slopes."""
    truth, road = drive.truth(10), drive._world.road
    s, t, _ = drive.scenario.ego.pose_2d(1.0)
    scene = drive._world.scene(1.0)
    tracks = scene.tracks[scene.labelled]
    checked = 0
    for k, track in enumerate(truth.boxes.track_ids):
        if CLASS_NAMES[truth.boxes.labels[k]] not in ("car", "van"):
            continue
        row = int(np.flatnonzero(tracks == track)[0])
        place = road.to_strip(scene.boxes[row : row + 1, :2] + scene.origin[:2])[0]
        yaw = scene.boxes[row, 6] - float(road.heading(place[0]))
        expected = road.pose(*place, yaw)
        own = road.pose(float(s), float(t), float(drive.scenario.ego.pose_2d(1.0)[2]))
        relative = own[:3, :3].T @ expected[:3, :3]
        assert truth.box_pitch[k] == pytest.approx(np.arcsin(relative[2, 0]), abs=0.01)
        checked += 1
    assert checked > 10


def test_points_lie_inside_the_boxes_of_their_objects(drive):
    truth, cloud = drive.truth(4), drive[4].points_in_base()  # with deskewed sweeps
    instances = truth.points["lidar"].instances
    inside = total = 0
    for k, track in enumerate(truth.boxes.track_ids):
        own = cloud[instances == track][:, :3] - truth.boxes.boxes[k, :3]
        yaw = truth.boxes.boxes[k, 6]
        u = np.cos(yaw) * own[:, 0] + np.sin(yaw) * own[:, 1]
        v = np.cos(yaw) * own[:, 1] - np.sin(yaw) * own[:, 0]
        half = (
            truth.boxes.boxes[k, 3:6] / 2 + 0.15
        )  # the slope tilts objects in their upright boxes
        inside += int((np.abs(np.column_stack([u, v, own[:, 2]])) < half).all(axis=1).sum())
        total += len(own)
    # Returns from windows come from up to 1 m inside of the vehicle.
    assert total > 300 and inside > 0.97 * total


def test_depth_images_agree_with_the_range_of_the_same_rays(drive):
    observation = drive.observe(6)
    scene = drive._world.scene(0.6)
    for name in ("camera", "fisheye", "thermal"):
        view, model = observation.truth.views[name], observation.frame.intrinsics[name]
        pose = scene.sensor_pose(
            observation.truth.odom_from_base, observation.frame.base_from_sensor[name]
        )
        rows, columns = np.nonzero(np.isfinite(view.ranges) & (view.ranges < 60.0))
        chosen = np.linspace(0, len(rows) - 1, 400).astype(int)
        rows, columns = rows[chosen], columns[chosen]
        unit = model.unproject(np.column_stack([columns, rows]))
        point = pose[:3, 3] + view.ranges[rows, columns, None] * (unit @ pose[:3, :3].T)
        rays = np.hstack([np.broadcast_to(pose[:3, 3], point.shape), point - pose[:3, 3]])
        rays[:, 3:] /= np.linalg.norm(rays[:, 3:], axis=1, keepdims=True)
        distance = scene.cast_rays(rays.astype(np.float32)).distance
        assert np.median(np.abs(distance - view.ranges[rows, columns])) < 0.005
        np.testing.assert_allclose(
            view.depth[rows, columns], view.ranges[rows, columns] * unit[:, 2], rtol=1e-4, atol=1e-3
        )


def test_depth_images_agree_with_the_lidar():
    """A LiDAR at the position of the camera measures the depth that the camera's truth has."""
    changes = {"motion_distortion": False, "model": "hdl64", "columns": 1800}
    rig = small_rig(noise=False, lidar=changes)
    lidar = replace(
        rig.sensors["lidar"], extrinsics=replace(rig.sensors["camera"].extrinsics, rpy=(0, 0, 0))
    )
    rig = replace(rig, sensors={"lidar": lidar, "camera": rig.sensors["camera"]})
    scenario = replace(street(), conditions=Conditions(foliage_penetration=1e-3))
    drive = Simulation(scenario, rig, 3, 4, grid=NO_GRID, profile="realistic")
    observation = drive.observe(2)
    frame, view = observation.frame, observation.truth.views["camera"]
    points = frame.points_in_base()[:, :3]
    in_camera = poses.transform_points(
        poses.inverse(frame.base_from_sensor["camera"]), points.astype(np.float64)
    )
    pixels, visible = frame.intrinsics["camera"].project(in_camera)
    columns, rows = np.round(pixels[visible]).astype(int).T
    ok = (
        (columns > 0)
        & (rows > 0)
        & (columns < view.ranges.shape[1])
        & (rows < view.ranges.shape[0])
    )
    measured = np.linalg.norm(in_camera[visible][ok], axis=1)
    true = view.ranges[rows[ok], columns[ok]]
    # Where the neighbouring pixels have nearly the same range, half a pixel makes no difference.
    finite = np.where(np.isfinite(view.ranges), view.ranges, 1e4).astype(np.float32)
    spread = cv2.dilate(finite, np.ones((3, 3))) - cv2.erode(finite, np.ones((3, 3)))
    flat = spread[rows[ok], columns[ok]] < 0.06
    assert flat.sum() > 100
    # Single returns differ: windows, and edges that are thinner than a pixel.
    assert np.percentile(np.abs(measured - true)[flat], 80) < 0.02


def test_2d_boxes_enclose_the_visible_pixels_and_visibility_is_a_fraction(drive):
    truth = drive.truth(6)
    for name, objects in truth.objects_in_images.items():
        view = truth.views[name]
        assert set(objects.track_ids.tolist()) <= set(truth.boxes.track_ids.tolist()) | {
            int(t) for t in np.unique(view.instances)
        }
        assert ((objects.visibility >= 0) & (objects.visibility <= 1)).all()
        for track, box, pixels in zip(
            objects.track_ids, objects.boxes, objects.pixels, strict=True
        ):
            rows, columns = np.nonzero(view.instances == track)
            assert pixels == len(rows)
            assert (
                box
                == (columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5)
            ).all()
    assert len(truth.objects_in_images["camera"].track_ids) > 2


def test_sweeps_are_those_of_the_complete_frame():
    one, two = (
        Simulation(street(), small_rig(), 5, 10, grid=NO_GRID, profile="realistic")
        for _ in range(2)
    )
    complete, only = one[3], two.sweeps(3)
    assert not only.cameras and only.labels is None
    assert only.lidars["lidar"].points.tobytes() == complete.lidars["lidar"].points.tobytes()
    assert (only.odom_from_base == complete.odom_from_base).all()


def test_windows_give_few_returns_and_glossy_cars_almost_none():
    """The fraction of the pulses on a surface that give a return, by material."""

    def ratio(material, reflection, angle):
        wall = quad([[8, -9, -9], [8, 9, -9], [8, 9, 9], [8, -9, 9]], material)
        scene = Scene.from_objects([replace(scenery_object(wall, "car"), reflection=reflection)])
        yaw = angle + np.linspace(-0.02, 0.02, 40)
        directions = np.stack([np.cos(yaw), np.sin(yaw), 0 * yaw], 1).astype(np.float32)
        rays = rays_from_pose(np.eye(4), np.tile(directions, (50, 1)))
        rng = np.random.default_rng(0)
        hits = scene.cast_rays(rays)
        power, _ = realistic_returns(scene, rays, hits, 0.0, 58.0, 50, rng)
        return float(np.mean(rng.random(len(power)) < 1 / (1 + np.maximum(power, 1e-9) ** -4.0)))

    assert ratio(Material.PAINT, 1.0, 0.3) > 0.95
    assert 0.1 < ratio(Material.GLASS, 1.0, 0.3) < 0.35
    assert ratio(Material.PAINT, 2e-4, 0.3) < 0.1
    assert ratio(Material.PAINT, 2e-4, 0.0) > 0.5  # at perpendicular incidence
    assert ratio(Material.PLATE, 2e-4, 0.3) > 0.95


def test_of_a_glossy_car_ahead_only_plates_lamps_wheels_and_trim_are_measured():
    """Such a car in a queue has few points, and none on its painted surfaces, as in KITTI's queues."""
    sensor = open_rig("kitti_like").sensors["lidar"]
    lidar = SimulatedLidar(sensor, "realistic")
    road = scenery_object(rectangle(-40, 40, -40, 40, 0.0, Material.ASPHALT), "road")
    car = labelled_object("saloon", object_mesh("saloon", 0, 0), (8.0, -0.3, 0.0), 0.0, 1)
    counts, painted = {}, {}
    for reflection in (1.0, 5e-5):
        scene = Scene.from_objects([road, replace(car, reflection=reflection)])
        sweep, truth = lidar.sweep(
            scene,
            sensor.base_from_sensor(),
            lambda _: np.eye(4),
            0,
            Conditions(),
            np.random.default_rng(2),
        )
        points = sweep.points[truth.instances == 1, :3].astype(np.float64)
        counts[reflection] = len(points)
        rays = np.hstack([np.zeros_like(points), points]).astype(np.float32)
        rays[:, :3] = sensor.base_from_sensor()[:3, 3]
        rays[:, 3:] /= np.linalg.norm(rays[:, 3:], axis=1, keepdims=True)
        hits = scene.cast_rays(rays)
        paint = np.isin(scene.triangles.materials[hits.triangle], (Material.PAINT, Material.BONNET))
        painted[reflection] = int(paint.sum())
    assert painted[1.0] > 400
    assert painted[5e-5] < 0.1 * painted[1.0]
    assert 20 < counts[5e-5] < 0.6 * counts[1.0]


def test_a_fraction_of_the_cars_is_glossy():
    drive = Simulation("urban_street", lidar_rig(), 2, 2, grid=NO_GRID, profile="realistic")
    scene = drive._world.scene(0.0)
    reflection = scene.reflection[scene.labelled]
    glossy = (reflection < 0.04).mean()
    assert 0.04 < glossy < 0.25 and 0.5 < np.median(reflection) < 1.0


def test_drives_are_equal_in_another_process():
    code = (
        "import dataclasses, hashlib;"
        "from multimodal_perception.simulation.rigs import open_rig;"
        "from multimodal_perception.simulation.simulation import Simulation;"
        "rig = open_rig('amr_16');"
        "rig = dataclasses.replace(rig, sensors={'lidar': rig.sensors['lidar']});"
        "d = Simulation('intersection', rig, 8, 5, profile='realistic').observe(3);"
        "h = hashlib.sha256(d.frame.lidars['lidar'].points.tobytes());"
        "h.update(d.truth.boxes.boxes.tobytes()); print(h.hexdigest())"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout
        # Strings have another hash in each of these processes.
        for environment in ({**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2"))
    ]
    assert outputs[0] == outputs[1] and len(outputs[0]) == 65


def test_profiles_differ_and_unknown_ones_are_rejected():
    basic, realistic = (
        Simulation(street(), lidar_rig(), 3, 2, grid=NO_GRID, profile=p)[0]
        for p in ("basic", "realistic")
    )
    assert len(basic.labels) != len(realistic.labels)
    with pytest.raises(UserError, match="basic, realistic"):
        check_profile("photorealistic")
