"""Street furniture: of a person's height, on the pavement, and without effect on other objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.simulation.world.block_builder import KERB_HEIGHT, PAVEMENT_WIDTH
from multimodal_perception.simulation.world.blocks import build_block
from multimodal_perception.simulation.world.furniture import (
    FURNITURE_TYPES,
    VARIANTS,
    furniture_mesh,
)
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.people import cyclist_mesh
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario

CLASSES = {SEMANTIC_NAMES.index(name) for _, name, _ in FURNITURE_TYPES.values()}


@pytest.mark.parametrize("furniture_type", FURNITURE_TYPES)
def test_a_piece_stands_on_the_ground_and_is_about_as_tall_as_people(furniture_type: str) -> None:
    heights = []
    for variant in range(VARIANTS):
        low, high = furniture_mesh(furniture_type, variant).bounds()
        assert -0.01 < low[2] < 0.03 and max(-low[1], high[1]) <= 0.61
        heights.append(high[2])
    assert min(heights) > 0.8 and max(heights) < 2.8


def build_blocks(
    furniture_density: float, pedestrian_density: float, name: str = "urban_street"
) -> tuple[Scenario, list]:
    scenario = replace(
        load_scenario(name),
        furniture_density=furniture_density,
        pedestrian_density=pedestrian_density,
    )
    return scenario, [build_block(scenario, 3, k) for k in range(4)]


@pytest.mark.parametrize("name", ["urban_street", "intersection"])
def test_furniture_does_not_change_other_objects(name: str) -> None:
    _, without_furniture = build_blocks(0.0, 0.3, name)
    _, with_furniture = build_blocks(0.4, 0.3, name)
    for bare, furnished in zip(without_furniture, with_furniture, strict=True):
        assert len(furnished.objects) > len(bare.objects) + 5
        for before, after in zip(bare.objects, furnished.objects, strict=False):
            assert before.box == after.box and before.semantic == after.semantic
            np.testing.assert_array_equal(before.mesh.corners, after.mesh.corners)


def test_furniture_has_no_box_and_stays_on_the_pavement() -> None:
    scenario, with_furniture = build_blocks(0.5, 0.0)
    _, without_furniture = build_blocks(0.0, 0.0)
    added = [
        scene_object
        for before, after in zip(without_furniture, with_furniture, strict=True)
        for scene_object in after.objects[len(before.objects) :]
    ]
    assert len(added) > 40
    for scene_object in added:
        low, high = scene_object.mesh.bounds()
        assert scene_object.box is None and scene_object.semantic in CLASSES
        min_distance, max_distance = np.sort(np.abs([low[1], high[1]]))
        assert scenario.half_width < min_distance
        assert max_distance < scenario.half_width + PAVEMENT_WIDTH + 0.4
        assert abs(low[2] - KERB_HEIGHT) < 0.03


def test_pedestrians_stand_among_the_furniture() -> None:
    _, without_people = build_blocks(0.3, 0.0)
    _, with_people = build_blocks(0.3, 1.0)
    person = SEMANTIC_NAMES.index("pedestrian")
    counts = [
        sum(t.semantic == person for b in blocks for t in b.objects)
        for blocks in (without_people, with_people)
    ]
    assert counts[0] == 0 and counts[1] > 10


def test_cyclists_have_no_reflector_on_the_head() -> None:
    mesh = cyclist_mesh(0, 0)
    high = mesh.corners.reshape(len(mesh), -1, 3)[:, :, 2].min(axis=1) > 1.5
    assert high.any() and Material.REFLECTOR not in set(mesh.materials[high])
