"""Every condition and fault has its documented effect, and only on the sensors that it concerns."""

import numpy as np
import pytest

from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.simulation.sensors.conditions import parse_fault
from multimodal_perception.simulation.simulation import Observation, Simulation
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from test.simulation.rigs import small_rig, street


def simulate(*modifiers: str, faults: tuple[str, ...] = (), noise: bool = True) -> Observation:
    rig = small_rig(noise)
    drive = Simulation(street(), rig, 3, 5, modifiers, [parse_fault(f) for f in faults])
    return drive.observe(1)


@pytest.fixture(scope="module")
def clear() -> Observation:
    return simulate()


def picture(observation: Observation, name: str = "camera") -> np.ndarray:
    return observation.frame.cameras[name].pixels.astype(float)


def far_points(frame: SensorFrame) -> int:
    return int((np.linalg.norm(frame.lidars["lidar"].points[:, :3], axis=1) > 25).sum())


def kelvin(observation: Observation) -> np.ndarray:
    return observation.frame.thermals["thermal"].pixels * 0.01


def test_night_darkens_camera_images_and_does_not_affect_other_sensors(clear: Observation) -> None:
    night = simulate("night")
    assert picture(night).mean() < 0.6 * picture(clear).mean()
    assert kelvin(night).std() > 0.3 * kelvin(clear).std() and kelvin(night).mean() < 285
    for actual, expected in zip(
        night.frame.lidars["lidar"].points, clear.frame.lidars["lidar"].points, strict=True
    ):
        assert np.array_equal(actual, expected)


def test_unlit_switches_off_all_lamps_except_the_headlights() -> None:
    def render(scenario: str, modifier: str) -> np.ndarray:
        drive = Simulation(scenario, small_rig(noise=False), 3, 5, (modifier,))
        return picture(drive.observe(1))

    hall = render("warehouse", "night")
    assert render("warehouse", "unlit").mean() < 0.5 * hall.mean()
    lit, unlit = render("urban_street", "night"), render("urban_street", "unlit")
    assert unlit.mean() < lit.mean()
    # The road in the light of the headlights stays as bright.
    height, width = unlit.shape[:2]
    ahead = (slice(int(0.75 * height), None), slice(width // 3, 2 * width // 3))
    assert unlit[ahead].mean() > 0.8 * lit[ahead].mean()


def test_sun_glare_saturates_pixels(clear: Observation) -> None:
    # On a highway nothing occludes the sun.
    drives = [Simulation("highway", small_rig(), 3, 5, m) for m in ((), ("sun_glare",))]
    saturated = [(picture(d.observe(1)) > 250).all(axis=2).sum() for d in drives]
    assert saturated[1] > saturated[0] + 20
    # A low sun heats the road less.
    road = clear.truth.views["thermal"].semantics == SEMANTIC_NAMES.index("road")
    assert kelvin(simulate("sun_glare"))[road].mean() < kelvin(clear)[road].mean() - 1


def test_fog_reduces_the_range_of_all_sensors_except_ultrasonic_ones(clear: Observation) -> None:
    fog = simulate("fog=40")
    assert far_points(fog.frame) < 0.2 * far_points(clear.frame)
    view = clear.truth.views["camera"]
    far = (view.depth > 40) & np.isfinite(view.depth)
    assert picture(fog)[far].std() < 0.5 * picture(clear)[far].std()
    # Fog droplets cause backscatter.
    near = np.linalg.norm(fog.frame.lidars["lidar"].points[:, :3], axis=1) < 20
    assert (fog.truth.points["lidar"].semantics[near] == 0).sum() > 20
    assert fog.frame.ultrasonics == clear.frame.ultrasonics


def test_rain_adds_drops_on_the_lens_and_reduces_returns(clear: Observation) -> None:
    rain = simulate("rain=40")
    assert far_points(rain.frame) < far_points(clear.frame)
    assert np.abs(picture(rain) - picture(clear)).mean() > 3


def test_lens_dirt_changes_all_camera_images_and_no_thermal_image(clear: Observation) -> None:
    dirty = simulate("lens_dirt=0.3")
    for name in ("camera", "fisheye"):
        assert np.abs(picture(dirty, name) - picture(clear, name)).mean() > 3
    assert np.array_equal(kelvin(dirty), kelvin(clear))


def test_a_patch_is_on_labelled_objects_and_visible_only_to_cameras() -> None:
    bare, patched = simulate(noise=False), simulate("adversarial_patch=1.2", noise=False)
    changed = np.abs(picture(patched) - picture(bare)).max(axis=2) > 60
    assert changed.sum() > 20
    objects = bare.truth.views["camera"].instances > 0
    # The lens blur spreads it by one or two pixels.
    dilated = sum(np.roll(objects, (i, j), (0, 1)) for i in range(-3, 4) for j in range(-3, 4)) > 0
    assert (changed & ~dilated).sum() == 0
    assert np.array_equal(kelvin(patched), kelvin(bare))
    assert np.array_equal(patched.frame.lidars["lidar"].points, bare.frame.lidars["lidar"].points)


def test_a_sensor_with_an_outage_is_missing() -> None:
    assert simulate(faults=("outage:thermal:0.05:0.2",)).frame.missing == {"thermal"}


@pytest.mark.parametrize(("sensor", "offset_ns"), [("thermal", 40_000_000), ("lidar", -30_000_000)])
def test_a_time_offset_changes_only_the_stamp(
    clear: Observation, sensor: str, offset_ns: int
) -> None:
    frame = simulate(faults=(f"time_offset:{sensor}:0:9:{offset_ns / 1e9}",)).frame
    actual, expected = frame.readings[sensor], clear.frame.readings[sensor]
    assert actual.stamp_ns - expected.stamp_ns == offset_ns
    data = "points" if sensor == "lidar" else "pixels"
    assert np.array_equal(getattr(actual, data), getattr(expected, data))


def test_an_extrinsic_error_changes_the_data_and_not_the_published_extrinsics() -> None:
    clean = simulate(noise=False)
    rotated = simulate(faults=("extrinsic_error:lidar:0:9:0:0:0:0:0:0.1",), noise=False)
    reported = [o.frame.base_from_sensor["lidar"] for o in (clean, rotated)]
    assert np.array_equal(*reported)
    # With the error in the extrinsics, the points of an object are in its box.
    instances = rotated.truth.points["lidar"].instances
    boxes = rotated.truth.boxes
    best = int(np.argmax(boxes.num_points))
    own = rotated.frame.lidars["lidar"].points[instances == boxes.track_ids[best], :3]
    error = poses.from_xyz_rpy((0, 0, 0), (0, 0, 0.1))
    for pose, matches in ((reported[0] @ error, True), (reported[0], False)):
        offset = poses.transform_points(pose, own) - boxes.boxes[best, :3]
        c, s = np.cos(boxes.boxes[best, 6]), np.sin(boxes.boxes[best, 6])
        across = np.abs(c * offset[:, 1] - s * offset[:, 0]).max() - boxes.boxes[best, 4] / 2
        along = np.abs(c * offset[:, 0] + s * offset[:, 1]).max() - boxes.boxes[best, 3] / 2
        # The ego vehicle moves by 0.4 m in either half of the sweep.
        assert (max(across, along) < 0.42) == matches


def test_ring_loss_removes_only_the_points_of_lost_rings(clear: Observation) -> None:
    frame = simulate(faults=("ring_loss:lidar:0:9:0.25",)).frame
    remaining = set(frame.lidars["lidar"].rings.tolist())
    assert len(remaining) == 12
    kept = np.isin(clear.frame.lidars["lidar"].rings, list(remaining))
    assert np.array_equal(frame.lidars["lidar"].points, clear.frame.lidars["lidar"].points[kept])


@pytest.mark.parametrize(
    ("metres", "expected"), [(0.4, 0.4), (3.333, 3.33), (0.01, -np.inf), (9.0, np.inf)]
)
def test_ultrasonic_spoofing_gives_rounded_ranges_within_the_limits(
    metres: float, expected: float
) -> None:
    frame = simulate(faults=(f"ultrasonic_spoofing:sonar:0:9:{metres}",)).frame
    assert frame.ultrasonics["sonar"].range_m == pytest.approx(expected)
