"""The drives that the detector learns from."""

from __future__ import annotations

from multimodal_perception.simulation.world.scenarios import load_scenario, movers
from multimodal_perception.training.detector.drives import (
    CLUTTERED_SEEDS,
    CYCLING_SEEDS,
    HEAVY_SEEDS,
    MINGLED_SEEDS,
    MIX,
    Drive,
    drive_of,
)
from multimodal_perception.training.detector.samples import SEGMENT_NAMES, segment_table

PEOPLE = ("pedestrian", "cyclist")


def test_a_seed_always_means_the_same_drive_and_many_have_mixed_traffic() -> None:
    drives = [drive_of(seed) for seed in range(300)]
    assert drives == [drive_of(seed) for seed in range(300)]
    assert 0.5 < sum(d.mixed for d in drives) / 300 < 0.7
    assert len({d.scenario for d in drives}) == 4 and len({d.conditions for d in drives}) == 5


def test_mixed_traffic_has_many_lorries_and_buses_and_the_same_people() -> None:
    plain, mixed = (Drive(3, "urban_street", (), m).place() for m in (False, True))
    cycling = Drive(CYCLING_SEEDS[0], "urban_street", (), True).place()
    assert plain == load_scenario("urban_street")

    def kinds(scenario: object) -> list[str]:
        return [m.kind for _, _, m, _ in movers(scenario, 3, 0.0, -2000.0, 2000.0)]  # type: ignore[arg-type]

    before, after = kinds(plain), kinds(mixed)
    assert len(after) == len(before)
    for kind in ("truck", "bus"):
        assert after.count(kind) > 3 * before.count(kind)
        share = after.count(kind) / sum(after.count(k) for k in MIX)
        assert 0.15 < share < 0.3
    assert after.count("pedestrian") == before.count("pedestrian")
    assert kinds(cycling).count("cyclist") > 2 * after.count("cyclist")
    assert all(drive_of(seed).mixed for seed in HEAVY_SEEDS)
    heavy = kinds(Drive(HEAVY_SEEDS[0], "urban_street", (), True).place())
    assert heavy.count("bus") > 1.5 * after.count("bus")


def test_people_of_mingled_drives_are_where_others_are_not() -> None:
    mingled = Drive(MINGLED_SEEDS[0], "urban_street", (), False).place()
    found = [(m.kind, abs(m.y)) for _, _, m, _ in movers(mingled, 3, 0.0, -2000.0, 2000.0)]
    for road in (True, False):
        people = [k for k, y in found if (y < mingled.half_width) == road and k in PEOPLE]
        assert len(people) > 40 and 0.4 < people.count("pedestrian") / len(people) < 0.8
    assert {"car", "van", "truck", "bus"} < {k for k, _ in found}
    plain = load_scenario("urban_street")
    walkers = [m for _, _, m, _ in movers(plain, 3, 0.0, -500.0, 500.0) if m.kind == "pedestrian"]
    assert all(abs(m.y) > plain.half_width for m in walkers)


def test_cluttered_drives_differ_in_clutter_gardens_and_leaves() -> None:
    places = [Drive(seed, "urban_street", (), False).place() for seed in CLUTTERED_SEEDS[:40]]
    assert all(p.clutter >= 0.3 and p.conditions.foliage >= 0.05 for p in places)
    assert max(p.gardens for p in places) > 0.7 > 0.3 > min(p.gardens for p in places)
    assert {"pedestrian", "cyclist"} < set(places[0].lanes[0].shares)
    mingled = Drive(MINGLED_SEEDS[0], "urban_street", (), False).place()
    assert mingled.clutter == 0.0 == mingled.conditions.foliage


def test_segments_tell_vehicles_apart() -> None:
    told = segment_table(["road", "bus", "car", "van", "truck", "pedestrian", "pole"])
    expected = ["background", "bus", "car", "van", "truck", "pedestrian", "pole"]
    assert [SEGMENT_NAMES[k] for k in told] == expected
