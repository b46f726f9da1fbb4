"""Clutter: pieces unlike one another, only where they may stand; leaves that let pulses in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.simulation.sensors.conditions import Conditions, apply_conditions
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.blocks import BLOCK, Builder, build_block
from multimodal_perception.simulation.world.clutter import CLUTTER, VARIANTS, clutter, draw_clutter
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.meshes import block
from multimodal_perception.simulation.world.placing import Thing, scenic
from multimodal_perception.simulation.world.scenarios import load_scenario
from multimodal_perception.simulation.world.scene import Scene
from test.simulation.rigs import small_rig

PERSON = SEMANTIC_NAMES.index("pedestrian")
KINDS = {SEMANTIC_NAMES.index(name) for _, name, _ in CLUTTER.values()}
SCENARIOS = ["urban_street", "intersection", "highway", "parking_lot"]


@pytest.mark.parametrize("kind", CLUTTER)
def test_a_piece_stands_on_the_ground_and_hardly_two_are_alike(kind: str) -> None:
    sizes = []
    for variant in range(VARIANTS):
        low, high = clutter(kind, variant).bounds()
        assert -0.5 < low[2] < 0.15 and 0.25 < high[2] < 11.0
        assert (high - low)[:2].max() < 10.0
        sizes.append(high - low)
    assert len(np.unique(np.round(sizes, 2), axis=0)) > (5 if kind == "bicycles" else 30)
    assert CLUTTER[kind][1] in SEMANTIC_NAMES


def test_a_piece_is_no_wider_than_there_is_room() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        low, high = draw_clutter(rng, 1.2)[0].bounds()
        assert (high - low)[:2].max() <= 1.2


def blocks(name: str, share: float) -> list[Builder]:
    scenario = replace(load_scenario(name), clutter=share, parked=0.3, gardens=0.0)
    return [build_block(scenario, 3, k) for k in range(6)]


def boxes(things: list[Thing]) -> list[tuple[float, ...]]:
    """Of what is no person: these stand where furniture would and clutter does not."""
    return [t.box for t in things if t.box is not None and t.semantic != PERSON]


@pytest.mark.parametrize("name", SCENARIOS)
def test_clutter_has_no_box_and_keeps_the_lanes_free(name: str) -> None:
    lanes = [(lane.y, 0.9) for lane in load_scenario(name).lanes if "car" in lane.shares]
    places = []
    for builder in blocks(name, 1.0):
        places += [free[:2] for free in builder.free]
        bare = build_block(replace(builder.scenario, clutter=0.0), 3, builder.number)
        added = {t.semantic for t in builder.things} - {t.semantic for t in bare.things}
        assert added <= KINDS
        assert boxes(builder.things) == boxes(bare.things)
    x, y = np.array(places).T
    assert len(x) > 10 and (x > -2.0).all() and (x < BLOCK + 2.0).all()
    for lane, half in lanes:
        assert (np.abs(y - lane) > half).all()


def test_an_open_garden_has_a_house_behind_and_much_in_it() -> None:
    scenario = replace(load_scenario("urban_street"), clutter=0.8, gardens=1.0)
    plants, houses, inner = 0, [], scenario.half_width + 3.0
    for k in range(6):
        for thing in build_block(scenario, 3, k).things:
            low, high = thing.mesh.bounds()
            beyond = min(abs(low[1]), abs(high[1])) > inner
            plants += beyond and thing.semantic == SEMANTIC_NAMES.index("vegetation")
            if thing.semantic == SEMANTIC_NAMES.index("building"):
                houses.append(min(abs(low[1]), abs(high[1])))
    assert plants > 60
    # Nothing of a garden stands on the pavement, with a hand's breadth for what is turned.
    places = [free for k in range(6) for free in build_block(scenario, 3, k).free]
    gardens = [free for free in places if abs(free[1]) > inner]
    assert all(abs(y) - room / np.sqrt(2) > inner - 0.1 for _, y, _, room in gardens)
    assert min(houses) > scenario.half_width + 10.0


def leafy_wall(thick: float, foliage: float) -> tuple[np.ndarray, np.ndarray]:
    """Depths of a sweep's points beyond the face of a wall of leaves 8 m ahead, and their classes."""
    leaves = scenic(block((8, -30, -5), (8 + thick, 30, 9), Material.LEAVES), "vegetation")
    behind = scenic(block((12, -30, -5), (13, 30, 9), Material.BRICK), "building")
    scene = Scene.of([leaves, behind])
    lidar = Simulation("urban_street", small_rig(noise=False), 3, 2)._lidars[0]
    conditions = Conditions(foliage=foliage)
    sweep, truth = lidar.sweep(
        scene, np.eye(4), lambda _: np.eye(4), 0, conditions, np.random.default_rng(4)
    )
    points = sweep.points[:, :3].astype(float)
    ahead = (points[:, 0] > 7) & (np.abs(points[:, 1]) < 3)
    # Along the ray, not across the wall.
    way = points[ahead] / np.linalg.norm(points[ahead], axis=1, keepdims=True)
    return (points[ahead, 0] - 8.0) / way[:, 0], truth.semantics[ahead]


def test_pulses_go_into_leaves_exponentially_and_no_further_than_they_reach() -> None:
    depths, classes = leafy_wall(3.5, 0.3)
    assert len(depths) > 500
    assert depths.min() > -1e-3
    assert depths.mean() == pytest.approx(0.3, rel=0.12)
    # Of an exponential's values a share of 1 - 1/e lies below its mean.
    assert (depths < 0.3).mean() == pytest.approx(1 - np.exp(-1), abs=0.05)
    assert set(classes) == {SEMANTIC_NAMES.index("vegetation")}
    thin, _ = leafy_wall(0.1, 0.3)
    assert thin.max() < 0.1 * 1.3  # the far side, seen at a slant


def test_leaves_are_closed_unless_said_otherwise() -> None:
    depths, _ = leafy_wall(3.5, 0.0)
    assert np.abs(depths).max() < 1e-3
    assert apply_conditions(Conditions(), ("foliage=0.4",)).foliage == 0.4
