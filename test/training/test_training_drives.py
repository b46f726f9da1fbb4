"""Simulated drives for the training of the detector: traffic, clutter and classes."""

from __future__ import annotations

from multimodal_perception.simulation.world.scenarios import load_scenario, moving_objects
from multimodal_perception.training.training_drives import (
    CLUTTER_SEEDS,
    CYCLIST_SEEDS,
    LARGE_VEHICLE_TRAFFIC_SEEDS,
    MIXED_TRAFFIC,
    SHARED_ROAD_SEEDS,
    DetectorTrainingDrive,
    drive_for_seed,
)

PEOPLE = ("pedestrian", "cyclist")


def test_a_seed_always_gives_the_same_drive_and_many_have_mixed_traffic() -> None:
    drives = [drive_for_seed(seed) for seed in range(300)]
    assert drives == [drive_for_seed(seed) for seed in range(300)]
    assert 0.5 < sum(d.mixed_traffic for d in drives) / 300 < 0.7
    assert len({d.scenario for d in drives}) == 4 and len({d.conditions for d in drives}) == 5


def test_mixed_traffic_has_more_trucks_and_buses_and_the_same_pedestrians() -> None:
    plain, mixed = (
        DetectorTrainingDrive(3, "urban_street", (), m).scenario_with_traffic()
        for m in (False, True)
    )
    cycling = DetectorTrainingDrive(
        CYCLIST_SEEDS[0], "urban_street", (), True
    ).scenario_with_traffic()
    assert plain == load_scenario("urban_street")

    def classes(scenario: object) -> list[str]:
        return [m.object_class for _, _, m, _ in moving_objects(scenario, 3, 0.0, -2000.0, 2000.0)]  # type: ignore[arg-type]

    before, after = classes(plain), classes(mixed)
    assert len(after) == len(before)
    for name in ("truck", "bus"):
        assert after.count(name) > 3 * before.count(name)
        fraction = after.count(name) / sum(after.count(k) for k in MIXED_TRAFFIC)
        assert 0.15 < fraction < 0.3
    assert after.count("pedestrian") == before.count("pedestrian")
    assert classes(cycling).count("cyclist") > 2 * after.count("cyclist")
    assert all(drive_for_seed(seed).mixed_traffic for seed in LARGE_VEHICLE_TRAFFIC_SEEDS)
    large_vehicles = classes(
        DetectorTrainingDrive(
            LARGE_VEHICLE_TRAFFIC_SEEDS[0], "urban_street", (), True
        ).scenario_with_traffic()
    )
    assert large_vehicles.count("bus") > 1.5 * after.count("bus")


def test_pedestrians_and_cyclists_use_road_and_pavement_in_shared_road_drives() -> None:
    shared = DetectorTrainingDrive(
        SHARED_ROAD_SEEDS[0], "urban_street", (), False
    ).scenario_with_traffic()
    objects = [
        (m.object_class, abs(m.y)) for _, _, m, _ in moving_objects(shared, 3, 0.0, -2000.0, 2000.0)
    ]
    for road in (True, False):
        people = [k for k, y in objects if (y < shared.half_width) == road and k in PEOPLE]
        assert len(people) > 40 and 0.4 < people.count("pedestrian") / len(people) < 0.8
    assert {"car", "van", "truck", "bus"} < {k for k, _ in objects}
    plain = load_scenario("urban_street")
    walkers = [
        m
        for _, _, m, _ in moving_objects(plain, 3, 0.0, -500.0, 500.0)
        if m.object_class == "pedestrian"
    ]
    assert all(abs(m.y) > plain.half_width for m in walkers)


def test_clutter_drives_vary_clutter_gardens_and_foliage() -> None:
    scenarios = [
        DetectorTrainingDrive(seed, "urban_street", (), False).scenario_with_traffic()
        for seed in CLUTTER_SEEDS[:40]
    ]
    assert all(
        p.clutter_density >= 0.3 and p.conditions.foliage_penetration >= 0.05 for p in scenarios
    )
    assert (
        max(p.garden_ratio for p in scenarios) > 0.7 > 0.3 > min(p.garden_ratio for p in scenarios)
    )
    assert {"pedestrian", "cyclist"} < set(scenarios[0].lanes[0].class_frequencies)
    shared = DetectorTrainingDrive(
        SHARED_ROAD_SEEDS[0], "urban_street", (), False
    ).scenario_with_traffic()
    assert shared.clutter_density == 0.0 == shared.conditions.foliage_penetration
