import numpy as np
import pytest

from multimodal_perception.configuration import ConfigurationError, UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.simulation.sensors.conditions import (
    Conditions,
    Fault,
    apply_conditions,
    parse_fault,
)
from multimodal_perception.simulation.simulation import Simulation, SimulationError
from multimodal_perception.simulation.world.scenarios import (
    ScenarioError,
    load_scenario,
    scenario_names,
)
from test.simulation.rigs import small_rig, street

NAMES = ("highway", "intersection", "parking_lot", "urban_street", "warehouse")


def payload(frame: SensorFrame) -> list[bytes]:
    """All sensor data as bytes."""
    parts = [s.points.tobytes() + s.time_offsets.tobytes() for s in frame.lidars.values()]
    parts += [i.pixels.tobytes() for i in (*frame.cameras.values(), *frame.thermals.values())]
    return parts + [np.float64(u.range_m).tobytes() for u in frame.ultrasonics.values()]


def test_scenarios_are_installed():
    assert set(NAMES) <= set(scenario_names())


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_gives_all_sensors_and_objects(name):
    drive = Simulation(name, small_rig(), 1, 30)
    for index in (0, 25):
        frame = drive[index]
        assert not frame.missing
        assert len(frame.labels) > 3
        assert len(frame.points_in_base()) > 1000
        assert np.linalg.norm(frame.labels.boxes[:, :2], axis=1).min() > 1.2


def test_the_same_seed_gives_the_same_bits_in_any_order():
    one, two = (Simulation(street(), small_rig(), 5, 10) for _ in range(2))
    two.observe(7)
    for index in (3, 0):
        assert payload(one.observe(index).frame) == payload(two.observe(index).frame)
    other = Simulation(street(), small_rig(), 6, 10)
    assert payload(one.observe(0).frame) != payload(other.observe(0).frame)


def test_simulation_implements_the_dataset_protocol():
    drive = Simulation(street(), small_rig(), 0, 3)
    assert len(drive) == 3 and drive.rig.name == "small" and "urban_street" in drive.name
    stamps = [f.stamp_ns for f in drive]
    assert np.diff(stamps).tolist() == [100_000_000] * 2
    assert drive[-1].stamp_ns == stamps[-1]
    with pytest.raises(IndexError):
        drive[3]


def test_objects_move_with_their_labelled_velocity():
    drive = Simulation(street(), small_rig(), 2, 20)
    first, second = drive.observe(4), drive.observe(5)
    tracks = {}
    for o in (first, second):
        boxes = o.truth.boxes.transformed(o.truth.odom_from_base, "odom")
        for i, track in enumerate(boxes.track_ids):
            tracks.setdefault(int(track), []).append((boxes.boxes[i], boxes.velocities[i]))
    moved = 0
    for pair in tracks.values():
        if len(pair) < 2:
            continue
        (before, velocity), (after, _) = pair
        # The size of a pedestrian's box changes with the gait phase and with a swinging bag.
        np.testing.assert_allclose(after[:2] - before[:2], 0.1 * velocity, atol=0.16)
        moved += bool(np.linalg.norm(velocity) > 0.5)
    assert moved > 5


def test_odometry_is_continuous():
    drive = Simulation("intersection", small_rig(), 0, 50)
    steps = [
        poses.inverse(drive[i].odom_from_base) @ drive[i + 1].odom_from_base for i in (0, 1, 2)
    ]
    speed = [s[0, 3] / 0.1 for s in steps]
    assert all(5 < v < 9 for v in speed)


def test_a_sensor_with_an_outage_is_missing_during_the_outage():
    drive = Simulation(street(), small_rig(), 0, 10, faults=[parse_fault("outage:camera:0.2:0.4")])
    assert [sorted(drive[i].missing) for i in range(5)] == [[], [], ["camera"], ["camera"], []]


def test_faults_have_their_documented_effect():
    rig = small_rig()
    clean = Simulation(street(), rig, 0, 10).observe(1).frame
    faults = [
        parse_fault("time_offset:thermal:0:9:0.04"),
        parse_fault("ring_loss:lidar:0:9:0.5"),
        parse_fault("ultrasonic_spoofing:sonar:0:9:0.4"),
        parse_fault("extrinsic_error:camera:0:9:0:0:0:0:0.05:0"),
    ]
    frame = Simulation(street(), rig, 0, 10, faults=faults).observe(1).frame
    assert frame.thermals["thermal"].stamp_ns == clean.thermals["thermal"].stamp_ns + 40_000_000
    assert len(set(frame.lidars["lidar"].rings.tolist())) == 8
    assert frame.ultrasonics["sonar"].range_m == 0.4
    np.testing.assert_array_equal(
        frame.base_from_sensor["camera"], clean.base_from_sensor["camera"]
    )
    assert (frame.cameras["camera"].pixels != clean.cameras["camera"].pixels).mean() > 0.3


def test_conditions_can_be_combined():
    both = apply_conditions(Conditions(), ["night", "fog=80", "rain=5"])
    assert both.night and both.fog_visibility == 80 and both.rain == 5
    assert both.extinction > apply_conditions(Conditions(), ["rain=5"]).extinction


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        (["snow"], "allowed: night"),
        (["fog=thick"], "not a number"),
        (["fog=2"], "at least 5"),
        (["rain=900"], "allowed: 0.0 to 150.0"),
        (["lens_dirt=2"], "allowed: 0.0 to 1.0"),
    ],
)
def test_invalid_conditions_are_rejected(modifiers, expected):
    with pytest.raises(UserError, match=expected):
        apply_conditions(Conditions(), modifiers)


@pytest.mark.parametrize(
    "text",
    [
        "outage",
        "melted:lidar",
        "outage:lidar:x",
        "outage:lidar:3:1",
        "ring_loss:lidar:0:1:7",
        "outage:a:1:2:3:4",
    ],
)
def test_invalid_faults_are_rejected(text):
    with pytest.raises(UserError):
        parse_fault(text)


@pytest.mark.parametrize(
    "fault", [Fault("outage", "radar"), Fault("ring_loss", "camera", value=0.5)]
)
def test_faults_of_missing_or_unsuitable_sensors_are_rejected(fault):
    with pytest.raises(ConfigurationError):
        Simulation(street(), small_rig(), 0, 5, faults=[fault])


def test_invalid_scenarios_are_rejected(tmp_path):
    with pytest.raises(ScenarioError, match="urban_street"):
        load_scenario("moon")
    with pytest.raises(UserError):
        load_scenario(tmp_path / "none.yaml")
    path = tmp_path / "odd.yaml"
    path.write_text("name: odd\nenvironment: street\nego: {y: 0, speed: 900}\n")
    with pytest.raises(ConfigurationError, match=r"ego\.speed"):
        load_scenario(path)
    path.write_text(
        "name: odd\nenvironment: street\nego: {y: 0, speed: 5}\n"
        "lanes: [{y: 1, speed: 0, spacing: 9}]\n"
    )
    with pytest.raises(ConfigurationError, match="zero"):
        load_scenario(path)


def test_invalid_rigs_and_arguments_are_rejected():
    with pytest.raises(SimulationError, match="at least one sensor"):
        Simulation(street(), Rig("empty", {}), 0, 5)
    entry = {"modality": "lidar", "topic": "/l", "frame_id": "l"}
    with pytest.raises(SimulationError, match="extrinsics"):
        Simulation(street(), parse_rig({"name": "r", "sensors": {"l": entry}}, "r"), 0, 5)
    entry |= {"extrinsics": {"xyz": [0, 0, 1]}, "simulation": {"columns": -3}}
    with pytest.raises(ConfigurationError, match="columns"):
        Simulation(street(), parse_rig({"name": "r", "sensors": {"l": entry}}, "r"), 0, 5)
    for frames, seed in ((0, 0), (5, -1)):
        with pytest.raises(SimulationError):
            Simulation(street(), small_rig(), seed, frames)
