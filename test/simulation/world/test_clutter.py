"""Clutter: varied pieces at permitted positions; penetration of foliage by LiDAR pulses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.simulation.sensors.conditions import Conditions, apply_conditions
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.block_builder import BLOCK_LENGTH, BlockBuilder
from multimodal_perception.simulation.world.blocks import build_block
from multimodal_perception.simulation.world.clutter import (
    CLUTTER_TYPES,
    VARIANTS,
    clutter_mesh,
    sample_clutter,
)
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.meshes import cuboid
from multimodal_perception.simulation.world.scenarios import load_scenario
from multimodal_perception.simulation.world.scene import Scene
from multimodal_perception.simulation.world.scene_objects import SceneObject, scenery_object
from test.simulation.rigs import small_rig

PEDESTRIAN = SEMANTIC_NAMES.index("pedestrian")
SEMANTIC_CLASSES = {SEMANTIC_NAMES.index(name) for _, name, _ in CLUTTER_TYPES.values()}
SCENARIOS = ["urban_street", "intersection", "highway", "parking_lot"]


@pytest.mark.parametrize("clutter_type", CLUTTER_TYPES)
def test_a_piece_stands_on_the_ground_and_variants_differ(clutter_type: str) -> None:
    sizes = []
    for variant in range(VARIANTS):
        low, high = clutter_mesh(clutter_type, variant).bounds()
        assert -0.5 < low[2] < 0.15 and 0.25 < high[2] < 11.0
        assert (high - low)[:2].max() < 10.0
        sizes.append(high - low)
    assert len(np.unique(np.round(sizes, 2), axis=0)) > (5 if clutter_type == "bicycles" else 30)
    assert CLUTTER_TYPES[clutter_type][1] in SEMANTIC_NAMES


def test_a_piece_respects_the_maximum_extent() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        low, high = sample_clutter(rng, 1.2)[0].bounds()
        assert (high - low)[:2].max() <= 1.2


def blocks(name: str, density: float) -> list[BlockBuilder]:
    scenario = replace(
        load_scenario(name), clutter_density=density, parking_occupancy=0.3, garden_ratio=0.0
    )
    return [build_block(scenario, 3, k) for k in range(6)]


def boxes(objects: list[SceneObject]) -> list[tuple[float, ...]]:
    """Boxes of all objects except pedestrians, which stand between the street furniture."""
    return [t.box for t in objects if t.box is not None and t.semantic != PEDESTRIAN]


@pytest.mark.parametrize("name", SCENARIOS)
def test_clutter_has_no_box_and_keeps_the_lanes_free(name: str) -> None:
    lanes = [(lane.y, 0.9) for lane in load_scenario(name).lanes if "car" in lane.class_frequencies]
    positions = []
    for builder in blocks(name, 1.0):
        positions += [position[:2] for position in builder.clutter_positions]
        scenario = replace(builder.scenario, clutter_density=0.0)
        without_clutter = build_block(scenario, 3, builder.number)
        added = {t.semantic for t in builder.objects} - {
            t.semantic for t in without_clutter.objects
        }
        assert added <= SEMANTIC_CLASSES
        assert boxes(builder.objects) == boxes(without_clutter.objects)
    x, y = np.array(positions).T
    assert len(x) > 10 and (x > -2.0).all() and (x < BLOCK_LENGTH + 2.0).all()
    for lane, half in lanes:
        assert (np.abs(y - lane) > half).all()


def test_gardens_with_clutter_have_a_house_behind_and_many_plants() -> None:
    scenario = replace(load_scenario("urban_street"), clutter_density=0.8, garden_ratio=1.0)
    plants, houses, inner = 0, [], scenario.half_width + 3.0
    for k in range(6):
        for scene_object in build_block(scenario, 3, k).objects:
            low, high = scene_object.mesh.bounds()
            beyond = min(abs(low[1]), abs(high[1])) > inner
            plants += beyond and scene_object.semantic == SEMANTIC_NAMES.index("vegetation")
            if scene_object.semantic == SEMANTIC_NAMES.index("building"):
                houses.append(min(abs(low[1]), abs(high[1])))
    assert plants > 60
    # Clutter of gardens does not stand on the pavement, with a tolerance of 0.1 m for rotated pieces.
    positions = [p for k in range(6) for p in build_block(scenario, 3, k).clutter_positions]
    in_gardens = [p for p in positions if abs(p[1]) > inner]
    assert all(abs(y) - extent / np.sqrt(2) > inner - 0.1 for _, y, _, extent in in_gardens)
    assert min(houses) > scenario.half_width + 10.0


def leafy_wall(thickness: float, foliage_penetration: float) -> tuple[np.ndarray, np.ndarray]:
    """Depths of a sweep's points in a wall of leaves 8 m ahead, along the ray, and their classes."""
    leaves = scenery_object(
        cuboid((8, -30, -5), (8 + thickness, 30, 9), Material.LEAVES), "vegetation"
    )
    behind = scenery_object(cuboid((12, -30, -5), (13, 30, 9), Material.BRICK), "building")
    scene = Scene.from_objects([leaves, behind])
    lidar = Simulation("urban_street", small_rig(noise=False), 3, 2)._lidars[0]
    conditions = Conditions(foliage_penetration=foliage_penetration)
    sweep, truth = lidar.sweep(
        scene, np.eye(4), lambda _: np.eye(4), 0, conditions, np.random.default_rng(4)
    )
    points = sweep.points[:, :3].astype(float)
    ahead = (points[:, 0] > 7) & (np.abs(points[:, 1]) < 3)
    # Along the ray, not perpendicular to the wall.
    direction = points[ahead] / np.linalg.norm(points[ahead], axis=1, keepdims=True)
    return (points[ahead, 0] - 8.0) / direction[:, 0], truth.semantics[ahead]


def test_penetration_depth_is_exponential_and_limited_by_the_foliage() -> None:
    depths, classes = leafy_wall(3.5, 0.3)
    assert len(depths) > 500
    assert depths.min() > -1e-3
    assert depths.mean() == pytest.approx(0.3, rel=0.12)
    # A fraction of 1 - 1/e of exponentially distributed values is below the mean.
    assert (depths < 0.3).mean() == pytest.approx(1 - np.exp(-1), abs=0.05)
    assert set(classes) == {SEMANTIC_NAMES.index("vegetation")}
    thin, _ = leafy_wall(0.1, 0.3)
    assert thin.max() < 0.1 * 1.3  # the far side, at oblique incidence


def test_foliage_is_opaque_by_default() -> None:
    depths, _ = leafy_wall(3.5, 0.0)
    assert np.abs(depths).max() < 1e-3
    assert apply_conditions(Conditions(), ("foliage_penetration=0.4",)).foliage_penetration == 0.4
