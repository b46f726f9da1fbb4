"""Street furniture: as tall as people, on the pavement, and nothing else is moved by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.simulation.world.blocks import KERB_HEIGHT, WALK, build_block
from multimodal_perception.simulation.world.furniture import KINDS, VARIANTS, furniture
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.people import cyclist
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario

CLASSES = {SEMANTIC_NAMES.index(name) for name, _ in KINDS.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_stands_on_the_ground_and_is_about_as_tall_as_people(kind: str) -> None:
    heights = []
    for variant in range(VARIANTS):
        low, high = furniture(kind, variant).bounds()
        assert -0.01 < low[2] < 0.03 and max(-low[1], high[1]) <= 0.61
        heights.append(high[2])
    assert min(heights) > 0.8 and max(heights) < 2.8


def still(furnished: float, people: float, name: str = "urban_street") -> tuple[Scenario, list]:
    scenario = replace(load_scenario(name), furniture=furnished, people=people)
    return scenario, [build_block(scenario, 3, k) for k in range(4)]


@pytest.mark.parametrize("name", ["urban_street", "intersection"])
def test_the_rest_of_a_street_stays_where_it_is(name: str) -> None:
    _, bare = still(0.0, 0.3, name)
    _, full = still(0.4, 0.3, name)
    for one, other in zip(bare, full, strict=True):
        assert len(other.things) > len(one.things) + 5
        for before, after in zip(one.things, other.things, strict=False):
            assert before.box == after.box and before.semantic == after.semantic
            np.testing.assert_array_equal(before.mesh.corners, after.mesh.corners)


def test_furniture_has_no_box_and_stays_on_the_pavement() -> None:
    scenario, full = still(0.5, 0.0)
    _, bare = still(0.0, 0.0)
    added = [
        thing
        for one, other in zip(bare, full, strict=True)
        for thing in other.things[len(one.things) :]
    ]
    assert len(added) > 40
    for thing in added:
        low, high = thing.mesh.bounds()
        assert thing.box is None and thing.semantic in CLASSES
        near, far = np.sort(np.abs([low[1], high[1]]))
        assert scenario.half_width < near and far < scenario.half_width + WALK + 0.4
        assert abs(low[2] - KERB_HEIGHT) < 0.03


def test_people_stand_among_it() -> None:
    _, alone = still(0.3, 0.0)
    _, among = still(0.3, 1.0)
    person = SEMANTIC_NAMES.index("pedestrian")
    counts = [
        sum(t.semantic == person for b in blocks for t in b.things) for blocks in (alone, among)
    ]
    assert counts[0] == 0 and counts[1] > 10


def test_no_rider_wears_a_reflector_for_a_hat() -> None:
    mesh = cyclist(0, 0)
    high = mesh.corners.reshape(len(mesh), -1, 3)[:, :, 2].min(axis=1) > 1.5
    assert high.any() and Material.REFLECTOR not in set(mesh.materials[high])
