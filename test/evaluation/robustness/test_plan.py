"""Which studies the standard and the full set have."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.robustness.catalogue import CORRUPTIONS
from multimodal_perception.evaluation.robustness.plan import PlanOptions, plan_studies
from multimodal_perception.evaluation.robustness.study import Study
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.rigs import open_rig

RIG = open_rig("simulation")
ALL = dict.fromkeys(("detection", "segmentation", "occupancy"), frozenset(RIG.sensors))


def plan(rig: Rig = RIG, simulated: bool = True, **options: object) -> list[Study]:
    used = dict.fromkeys(ALL, frozenset(rig.sensors))
    return plan_studies(rig, used, PlanOptions(**options), simulated)  # type: ignore[arg-type]


def test_the_standard_set_has_every_sensor_weather_pairs_and_attacks() -> None:
    studies = plan()
    assert len(studies) == len(set(studies))
    targets = {s.target for s in studies}
    assert {"lidar", "camera_front", "camera_rear", "thermal_front", "ultrasonics"} <= targets
    assert {"all sensors", "lidar + camera_front", "thermal_front + ultrasonics"} <= targets
    assert {s.severities for s in studies} == {(1, 3, 5), (5,)}
    patch = next(s for s in studies if s.name == "adversarial_patch")
    assert patch.sensors == ("camera_front", "camera_rear")
    attacks = {(s.name, s.target, s.task) for s in studies if s.kind == "attack"}
    assert ("point_attack", "lidar", "detection") in attacks
    assert ("image_attack", "thermal_front", "segmentation") in attacks and len(attacks) == 7
    assert not any(s.kind == "attack" or "+" in s.target for s in plan(pairs=False, attacks=False))
    assert not any(s.name == "adversarial_patch" for s in plan(simulated=False))
    assert {(s.name, s.target, s.task) for s in plan(corruptions=())} == attacks


def test_the_standard_set_of_a_rig_with_many_cameras_is_limited() -> None:
    rig = open_rig("nuscenes_like")
    alone = {s.target for s in plan(rig, pairs=False) if len(s.sensors) == 1}
    cameras = [n for n, s in rig.sensors.items() if s.modality.value == "camera"]
    assert len(cameras) == 6 and len(alone & set(cameras)) == 2
    everything = next(s for s in plan(rig) if s.target == "all cameras" and s.name == "fog")
    assert everything.sensors == tuple(cameras)
    assert set(cameras) <= {s.target for s in plan(rig, full=True)}


def test_the_full_set_contains_the_standard_set() -> None:
    full = {(s.name, s.target): set(s.severities) for s in plan(full=True)}
    assert all(set(s.severities) <= full[s.name, s.target] for s in plan())
    assert all(severities == {1, 2, 3, 4, 5} for severities in full.values())


def test_sensors_that_no_task_uses_are_left_out() -> None:
    used = {"detection": frozenset({"lidar"})}
    studies = plan_studies(RIG, used, PlanOptions(), True)
    assert {s.target for s in studies} == {"lidar", "all sensors"}
    assert {s.tasks for s in studies} == {("detection",)}
    assert [s.task for s in studies if s.kind == "attack"] == ["detection"]


def test_selected_sensors_corruptions_and_severities() -> None:
    studies = plan(sensors=("front_left", "lidar"), corruptions=("missing",), severities=(4, 2))
    assert [(s.target, s.severities) for s in studies if s.kind == "corruption"] == [
        ("front_left", (2, 4)),
        ("lidar", (2, 4)),
        ("front_left + lidar", (5,)),
    ]
    group = plan(sensors=("ultrasonics",), corruptions=("ghosts",), attacks=False)[0]
    assert len(group.sensors) == 12
    with pytest.raises(UserError, match="--sensors: allowed: lidar, camera_front"):
        plan(sensors=("radar",))
    with pytest.raises(UserError, match="--severities: allowed: 1, 2, 3, 4, 5; got 0"):
        plan(severities=(0,))
    with pytest.raises(UserError, match=r"--corruptions: allowed: .*; got 'hail'"):
        plan(corruptions=("hail",))


def test_the_documentation_lists_every_corruption_with_its_values() -> None:
    page = (Path(__file__).parents[3] / "docs" / "robustness.md").read_text()
    for corruption in CORRUPTIONS.values():
        values = ", ".join(f"{v:g}" for v in corruption.values)
        row = next(
            line for line in page.splitlines() if line.startswith(f"| `{corruption.name}` |")
        )
        assert f"| {values} {corruption.unit} |" in row and corruption.source in row


def test_a_study_is_about_the_tasks_that_use_one_of_its_sensors() -> None:
    used = {
        "detection": {"lidar"},
        "segmentation": {"camera_front"},
        "occupancy": {"lidar", "front_left"},
    }
    tasks = {s.target: s.tasks for s in plan_studies(RIG, used, PlanOptions(attacks=False), True)}
    assert tasks["lidar"] == ("detection", "occupancy")
    assert tasks["camera_front"] == ("segmentation",) and tasks["ultrasonics"] == ("occupancy",)
    assert tasks["lidar + camera_front"] == ("detection", "segmentation", "occupancy")
