"""Each condition and fault does what it says, to the sensors that it says, and to no other."""

import numpy as np
import pytest

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.simulation.sensors.conditions import parse_fault
from multimodal_perception.simulation.simulation import Observation, Simulation
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from test.simulation.rigs import small_rig, street


def seen(*words: str, faults: tuple[str, ...] = (), noise: bool = True) -> Observation:
    rig = small_rig(noise)
    drive = Simulation(street(), rig, 3, 5, words, [parse_fault(f) for f in faults])
    return drive.observe(1)


@pytest.fixture(scope="module")
def clear() -> Observation:
    return seen()


def picture(observation: Observation, name: str = "camera") -> np.ndarray:
    return observation.frame.cameras[name].pixels.astype(float)


def far_points(frame: SensorFrame) -> int:
    return int((np.linalg.norm(frame.lidars["lidar"].points[:, :3], axis=1) > 25).sum())


def kelvin(observation: Observation) -> np.ndarray:
    return observation.frame.thermals["thermal"].pixels * 0.01


def test_by_night_the_camera_is_dark_and_the_rest_sees_on(clear: Observation) -> None:
    night = seen("night")
    assert picture(night).mean() < 0.6 * picture(clear).mean()
    assert kelvin(night).std() > 0.3 * kelvin(clear).std() and kelvin(night).mean() < 285
    for ours, theirs in zip(
        night.frame.lidars["lidar"].points, clear.frame.lidars["lidar"].points, strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_unlit_switches_the_lamps_of_street_and_hall_off_and_not_the_vehicles_own() -> None:
    def brightness(scenario: str, word: str) -> np.ndarray:
        drive = Simulation(scenario, small_rig(noise=False), 3, 5, (word,))
        return picture(drive.observe(1))

    hall = brightness("warehouse", "night")
    assert brightness("warehouse", "unlit").mean() < 0.5 * hall.mean()
    lit, unlit = brightness("urban_street", "night"), brightness("urban_street", "unlit")
    assert unlit.mean() < lit.mean()
    # What the head lamps light on the road ahead stays as bright.
    height, width = unlit.shape[:2]
    ahead = (slice(int(0.75 * height), None), slice(width // 3, 2 * width // 3))
    assert unlit[ahead].mean() > 0.8 * lit[ahead].mean()


def test_a_low_sun_ahead_dazzles(clear: Observation) -> None:
    # Nothing stands between on a highway.
    open_road = [Simulation("highway", small_rig(), 3, 5, w).observe(1) for w in ((), ("low_sun",))]
    dazzled = [(picture(o) > 250).all(axis=2).sum() for o in open_road]
    assert dazzled[1] > dazzled[0] + 20
    road = clear.truth.views["thermal"].semantics == SEMANTIC_NAMES.index("road")
    assert kelvin(seen("low_sun"))[road].mean() < kelvin(clear)[road].mean() - 1  # it warms little


def test_fog_takes_the_distance_from_all_but_ultrasonics(clear: Observation) -> None:
    fog = seen("fog=40")
    assert far_points(fog.frame) < 0.2 * far_points(clear.frame)
    view = clear.truth.views["camera"]
    far = (view.depth > 40) & np.isfinite(view.depth)
    assert picture(fog)[far].std() < 0.5 * picture(clear)[far].std()
    # Drops in the air send back some of the light.
    near = np.linalg.norm(fog.frame.lidars["lidar"].points[:, :3], axis=1) < 20
    assert (fog.truth.points["lidar"].semantics[near] == 0).sum() > 20
    assert fog.frame.ultrasonics == clear.frame.ultrasonics


def test_rain_lies_on_the_lens_and_takes_echoes(clear: Observation) -> None:
    rain = seen("rain=40")
    assert far_points(rain.frame) < far_points(clear.frame)
    assert np.abs(picture(rain) - picture(clear)).mean() > 3


def test_dirt_covers_its_share_of_each_lens_and_stays_there(clear: Observation) -> None:
    dirty = seen("dirt=0.3")
    for name in ("camera", "fisheye"):
        assert np.abs(picture(dirty, name) - picture(clear, name)).mean() > 3
    assert np.array_equal(kelvin(dirty), kelvin(clear))


def test_a_patch_is_on_the_objects_and_for_cameras_alone() -> None:
    bare, patched = seen(noise=False), seen("patch=1.2", noise=False)
    changed = np.abs(picture(patched) - picture(bare)).max(axis=2) > 60
    assert changed.sum() > 20
    objects = bare.truth.views["camera"].instances > 0
    # The lens spreads it by a pixel or two.
    beside = sum(np.roll(objects, (i, j), (0, 1)) for i in range(-3, 4) for j in range(-3, 4)) > 0
    assert (changed & ~beside).sum() == 0
    assert np.array_equal(kelvin(patched), kelvin(bare))
    assert np.array_equal(patched.frame.lidars["lidar"].points, bare.frame.lidars["lidar"].points)


def test_a_dead_sensor_is_missing() -> None:
    assert seen(faults=("dead:thermal:0.05:0.2",)).frame.missing == {"thermal"}


@pytest.mark.parametrize(("sensor", "late_ns"), [("thermal", 40_000_000), ("lidar", -30_000_000)])
def test_a_time_offset_moves_the_stamp_alone(clear: Observation, sensor: str, late_ns: int) -> None:
    frame = seen(faults=(f"time_offset:{sensor}:0:9:{late_ns / 1e9}",)).frame
    ours, theirs = frame.readings[sensor], clear.frame.readings[sensor]
    assert ours.stamp_ns - theirs.stamp_ns == late_ns
    data = "points" if sensor == "lidar" else "pixels"
    assert np.array_equal(getattr(ours, data), getattr(theirs, data))


def test_an_extrinsic_error_turns_what_is_seen_and_not_what_is_told() -> None:
    straight = seen(noise=False)
    turned = seen(faults=("extrinsic_error:lidar:0:9:0:0:0:0:0:0.1",), noise=False)
    told = [o.frame.base_from_sensor["lidar"] for o in (straight, turned)]
    assert np.array_equal(*told)
    # Its points turned by that error lie on the boxes again.
    instances = turned.truth.points["lidar"].instances
    boxes = turned.truth.boxes
    best = int(np.argmax(boxes.num_points))
    own = turned.frame.lidars["lidar"].points[instances == boxes.track_ids[best], :3]
    error = poses.from_xyz_rpy((0, 0, 0), (0, 0, 0.1))
    for pose, right in ((told[0] @ error, True), (told[0], False)):
        away = poses.transform_points(pose, own) - boxes.boxes[best, :3]
        c, s = np.cos(boxes.boxes[best, 6]), np.sin(boxes.boxes[best, 6])
        across = np.abs(c * away[:, 1] - s * away[:, 0]).max() - boxes.boxes[best, 4] / 2
        along = np.abs(c * away[:, 0] + s * away[:, 1]).max() - boxes.boxes[best, 3] / 2
        # The ego goes on by 0.4 m either way within the sweep.
        assert (max(across, along) < 0.42) == right


def test_lost_rings_are_silent_and_the_others_are_not(clear: Observation) -> None:
    frame = seen(faults=("ring_loss:lidar:0:9:0.25",)).frame
    left = set(frame.lidars["lidar"].rings.tolist())
    assert len(left) == 12
    kept = np.isin(clear.frame.lidars["lidar"].rings, list(left))
    assert np.array_equal(frame.lidars["lidar"].points, clear.frame.lidars["lidar"].points[kept])


@pytest.mark.parametrize(
    ("metres", "said"), [(0.4, 0.4), (3.333, 3.33), (0.01, -np.inf), (9.0, np.inf)]
)
def test_a_spoofed_echo_is_said_as_an_ultrasonic_says_it(metres: float, said: float) -> None:
    frame = seen(faults=(f"spoofed_echo:sonar:0:9:{metres}",)).frame
    assert frame.ultrasonics["sonar"].range_m == pytest.approx(said)
