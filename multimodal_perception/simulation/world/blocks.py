"""The still part of the world, block by block of 40 m: roads, houses, parked rows, racks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.clutter import draw_clutter
from multimodal_perception.simulation.world.furniture import KINDS, VARIANTS, draw_kind, furniture
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, block, merge, patch
from multimodal_perception.simulation.world.placing import Thing, kind_mesh, labelled, scenic
from multimodal_perception.simulation.world.scenarios import CLOTHS, Scenario, draw_paint

BLOCK = 40.0
KERB_HEIGHT = 0.12
MARK = 0.004  # markings lie that much above the asphalt
WALK = 3.0  # width of a pavement
# A crossing takes the place of every third block.
CROSSING = 3
CROSSING_HALF = 6.0


@dataclass
class Builder:
    """Collects the things of one block; x runs from 0 to BLOCK."""

    scenario: Scenario
    number: int
    rng: np.random.Generator
    things: list[Thing] = field(default_factory=list)
    lamps: list[tuple[float, float, float]] = field(default_factory=list)
    # Where clutter may stand: x, y, z of the ground, and how wide it may be.
    free: list[tuple[float, float, float, float]] = field(default_factory=list)

    def add(self, name: str, *meshes: Mesh) -> None:
        """Scenery of one class."""
        colour = tuple(float(v) for v in self.rng.uniform(0.35, 0.8) * np.array([1.0, 0.95, 0.87]))
        self.things.append(scenic(merge(meshes), name, cloth=colour))  # type: ignore[arg-type]

    def put(self, kind: str, x: float, y: float, yaw: float, z: float = 0.0) -> None:
        """Something still with a box."""
        rng = self.rng
        mesh = kind_mesh(kind, int(rng.integers(0, 1000)), int(rng.integers(0, 8)), walks=False)
        # Numbers of movers end below 2^19.
        track = (1 << 20) + (self.number % 4096) * 256 + len(self.things) % 256
        cloth = CLOTHS[int(rng.integers(len(CLOTHS)))]
        self.things.append(
            labelled(kind, mesh, (x, y, z), yaw, track, paint=draw_paint(rng), cloth=cloth)
        )

    def lamp(self, x: float, y: float, z: float = KERB_HEIGHT) -> None:
        """A street lamp whose arm reaches towards y = 0."""
        mesh = scenery.street_lamp()
        self.add("pole", mesh.placed((x, y, z), 0.0 if y > 0 else np.pi))
        self.lamps.append((x, y - np.sign(y) * 1.65, 8.0))


def build_block(scenario: Scenario, seed: int, number: int) -> Builder:
    """The things of one block, the same whenever it is asked for."""
    rng = np.random.default_rng((seed, 2, number + 1_000_000))
    builder = Builder(scenario, number, rng)
    makers: dict[str, Callable[[Builder], None]] = {
        "street": _street,
        "intersection": _crossing if number % CROSSING == 1 else _street,
        "highway": _highway,
        "parking": _parking,
        "warehouse": _warehouse,
    }
    makers[scenario.kind](builder)
    if scenario.furniture > 0 and scenario.kind in ("street", "intersection"):
        # Of its own chance: the rest of the block stays as it is without.
        builder.rng = np.random.default_rng((seed, 3, number + 1_000_000))
        _furnish(builder, makers[scenario.kind] is _crossing)
    if scenario.clutter > 0:
        builder.rng = np.random.default_rng((seed, 4, number + 1_000_000))
        _clutter(builder)
    return builder


def _clutter(b: Builder) -> None:
    """Pieces like no others in the free places, and thin ones on an island in the middle of a street."""
    for x, y, z, room in b.free:
        if b.rng.random() < b.scenario.clutter:
            mesh, name = draw_clutter(b.rng, room)
            thing = mesh.placed((x, y, z), float(b.rng.uniform(-np.pi, np.pi)))
            cloth = CLOTHS[int(b.rng.integers(len(CLOTHS)))]
            b.things.append(scenic(thing, name, draw_paint(b.rng), cloth))
    if b.scenario.kind in ("street", "intersection") and b.rng.random() < b.scenario.clutter:
        for x in b.rng.uniform(1.0, 11.0, int(b.rng.integers(1, 5))):
            mesh, name = draw_clutter(b.rng, 0.7)
            b.things.append(scenic(mesh.placed((x, 0.0, 0.0)), name, draw_paint(b.rng)))


def _furnish(b: Builder, crossing: bool) -> None:
    """Street furniture along the kerb and along the houses, and people standing among it."""
    w, scenario = b.scenario.half_width, b.scenario
    for s in (-1, 1):
        lamp = 8.0 if s > 0 else 28.0
        for away in (0.45, 2.75):
            for x in np.arange(1.3, BLOCK, 2.4) + b.rng.uniform(-0.5, 0.5, 17):
                # Trees stand every 8 m.
                beside_tree = away < 1.0 and abs((x - 1.0) % 8.0 - 4.0) < 0.9
                beside_lamp = away < 1.0 and abs(x - lamp) < 0.8
                on_crossing = crossing and abs(x - BLOCK / 2) < CROSSING_HALF + 4.5
                if beside_tree or beside_lamp or on_crossing:
                    continue
                y = s * (w + away + float(b.rng.uniform(-0.1, 0.1)))
                yaw = float(b.rng.uniform(-np.pi, np.pi))
                draw = b.rng.random()
                if draw < scenario.furniture:
                    kind = draw_kind(b.rng)
                    # What is long stands along the street.
                    yaw = float(b.rng.integers(2)) * np.pi + 0.05 * yaw
                    mesh, name = furniture(kind, int(b.rng.integers(VARIANTS))), KINDS[kind][0]
                    if scenario.clutter > 0 and b.rng.random() < scenario.clutter:
                        mesh, name = draw_clutter(b.rng, 1.2)
                    thing = mesh.placed((float(x), y, KERB_HEIGHT), yaw)
                    cloth = CLOTHS[int(b.rng.integers(len(CLOTHS)))]
                    b.things.append(scenic(thing, name, draw_paint(b.rng), cloth))
                elif draw < scenario.furniture + 0.12 * scenario.people:
                    b.put("pedestrian", float(x), y, yaw, KERB_HEIGHT)


def _dashes(y: float, width: float, dash: float, gap: float, end: float = BLOCK) -> list[Mesh]:
    starts = np.arange(0.0, end - dash + 1e-6, dash + gap)
    return [
        patch(x, x + dash, y - width / 2, y + width / 2, MARK, Material.MARKING) for x in starts
    ]


def _pavement(b: Builder, x0: float, x1: float) -> None:
    w = b.scenario.half_width
    for s in (-1, 1):
        inner, middle, outer = sorted((s * w, s * (w + 0.2), s * (w + WALK)), key=abs)
        low, high = sorted((inner, middle))
        b.add("kerb", block((x0, low, -0.1), (x1, high, KERB_HEIGHT), Material.KERB))
        low, high = sorted((middle, outer))
        b.add("sidewalk", patch(x0, x1, low, high, KERB_HEIGHT, Material.SLABS))
        low, high = sorted((outer, s * 45.0))
        b.add("terrain", patch(x0, x1, low, high, KERB_HEIGHT - 0.02, Material.GRASS))


def _street(b: Builder) -> None:
    w = b.scenario.half_width
    b.add("road", patch(0, BLOCK, -w, w, 0.0, Material.ASPHALT))
    marks = _dashes(0.0, 0.12, 3.0, 5.0)
    for s in (-1, 1):
        marks += _dashes(s * (w - 2.2), 0.12, 1.0, 1.0)
    b.add("marking", *marks)
    _pavement(b, 0.0, BLOCK)
    for s in (-1, 1):
        _houses(b, s, 0.0, BLOCK)
        _beside_kerb(b, s)
        for x in np.arange(3.4, BLOCK - 2.0, 6.6):
            if b.rng.random() < b.scenario.parked:
                kind = "van" if b.rng.random() < 0.12 else "car"
                side = s * (w - 1.12) + b.rng.normal(0, 0.05)
                along = float(x) + b.rng.uniform(-0.5, 0.5)
                turned = b.rng.random() < 0.08
                yaw = (0.0 if s < 0 else np.pi) + (np.pi if turned else 0.0)
                b.put(kind, along, side, yaw + float(b.rng.normal(0, 0.012)))
            elif b.rng.random() < 0.2:
                _road_works(b, float(x), s * (w - 1.1))
            else:
                for along in (-1.5, 1.5):
                    b.free.append((float(x) + along, s * (w - 1.1 + 0.2 * along), 0.0, 2.0))
        if b.rng.random() < b.scenario.people:
            x = float(b.rng.uniform(3, 37))
            for k in range(int(b.rng.integers(1, 4))):
                b.put("pedestrian", x + 0.7 * k, s * (w + 2.4), b.rng.uniform(-3, 3), KERB_HEIGHT)


def _road_works(b: Builder, x: float, y: float) -> None:
    for k in range(4):
        b.put("cone", x - 1.8 + 1.2 * k, y - 0.9 * np.sign(y) + b.rng.normal(0, 0.08), 0.0)
    b.put("barrier", x, y, float(b.rng.normal(0, 0.05)))


def _beside_kerb(b: Builder, s: int) -> None:
    w = b.scenario.half_width
    for x in np.arange(4.0, BLOCK, 8.0):
        if b.rng.random() < b.scenario.trees:
            at = (float(x) + 1.0, s * (w + 0.75), KERB_HEIGHT)
            tree = scenery.tree(int(b.rng.integers(8)))
            b.add("vegetation", tree.placed(at, float(b.rng.uniform(0, 6))))
    b.lamp(8.0 if s > 0 else 28.0, s * (w + 0.6))
    if b.rng.random() < 0.6:
        at = (float(b.rng.uniform(14, 26)), s * (w + 0.5), KERB_HEIGHT)
        yaw = 0.0 if s < 0 else np.pi
        b.add("pole", scenery.sign(int(b.rng.integers(2))).placed(at, yaw))


def _houses(b: Builder, s: int, x0: float, x1: float) -> None:
    """Houses side by side, now and then a garden behind a wall or fence."""
    front = b.scenario.half_width + WALK + 0.4
    x = x0
    while x < x1 - 4.0:
        length = min(float(b.rng.uniform(9.0, 17.0)), x1 - x)
        if x1 - x - length < 6.0:
            length = x1 - x
        depth = float(b.rng.uniform(8.0, 12.0))
        storeys = int(b.rng.integers(b.scenario.storeys[0], b.scenario.storeys[1] + 1))
        brick, gable = b.rng.random() < 0.45, b.rng.random() < 0.55
        if b.rng.random() < b.scenario.gardens:
            _garden(b, s, x, length, front)
        else:
            house = scenery.building(length - 0.02, depth, storeys, bool(brick), bool(gable))
            back = float(b.rng.uniform(0.0, 0.8))
            place = (x, front + back, 0.0) if s > 0 else (x + length, -front - back, 0.0)
            b.add("building", house.placed(place, 0.0 if s > 0 else np.pi))
        x += length


def _garden(b: Builder, s: int, x: float, length: float, front: float) -> None:
    border = b.rng.random()
    if b.scenario.clutter > 0:
        # Open to the street more often than not, a house behind; nothing grows over the pavement.
        for away, room in ((0.8, 1.2), (3.2, 4.5), (6.0, 6.0)):
            for along in np.arange(0.8, length, 1.9):
                dx, dy = b.rng.uniform(-0.4, 0.4), b.rng.uniform(-0.2, 1.2)
                b.free.append((x + along + dx, s * (front + away + dy), KERB_HEIGHT - 0.02, room))
        border *= 2.5
        house = scenery.building(length - 0.02, 9.0, 2, bool(b.rng.random() < 0.5), True)
        back = front + 9.5
        place = (x, back, 0.0) if s > 0 else (x + length, -back, 0.0)
        b.add("building", house.placed(place, 0.0 if s > 0 else np.pi))
    if border < 0.5:
        low, high = sorted((s * front, s * (front + 0.25)))
        b.add("wall", block((x, low, 0), (x + length, high, 1.5), Material.BRICK))
    elif border < 1.0:
        b.add("fence", scenery.fence(length).placed((x, s * front, KERB_HEIGHT)))
    for _ in range(3):
        at = (x + b.rng.uniform(1, length - 1), s * (front + b.rng.uniform(2, 9)), 0.05)
        tall = b.rng.random() < 0.6
        plant = scenery.tree(int(b.rng.integers(8))) if tall else scenery.bush(0)
        b.add("vegetation", plant.placed(at))


def _crossing(b: Builder) -> None:
    """A street across in the middle of the block, with zebra crossings, lights and queues."""
    w, half, middle = b.scenario.half_width, CROSSING_HALF, BLOCK / 2
    a0, a1 = middle - half, middle + half
    b.add(
        "road",
        patch(0, BLOCK, -w, w, 0.0, Material.ASPHALT),
        patch(a0, a1, w, 70, 0.0, Material.ASPHALT),
        patch(a0, a1, -70, -w, 0.0, Material.ASPHALT),
    )
    marks = _dashes(0.0, 0.12, 3.0, 3.0, a0 - 6.0)
    marks += [m.placed((a1 + 6.0, 0, 0)) for m in _dashes(0.0, 0.12, 3.0, 3.0, a0 - 6.0)]
    for s in (-1, 1):
        stripes = np.arange(-w + 0.5, w - 0.4, 1.0)
        along = middle + s * (half + 2.5)
        marks += [
            patch(along - 1.5, along + 1.5, y, y + 0.5, MARK, Material.MARKING) for y in stripes
        ]
        stripes = np.arange(a0 + 0.5, a1 - 0.4, 1.0)
        low, high = sorted((s * (w + 1.0), s * (w + 4.0)))
        marks += [patch(x, x + 0.5, low, high, MARK, Material.MARKING) for x in stripes]
        low, high = sorted((s * (w + 5.0), s * (w + 5.4)))
        lane = (a0 + 0.2, middle - 0.1) if s > 0 else (middle + 0.1, a1 - 0.2)
        marks.append(patch(*lane, low, high, MARK, Material.MARKING))
        for y in np.arange(w + 6.0, 60.0, 6.0):
            low, high = sorted((s * y, s * (y + 3.0)))
            marks.append(patch(middle - 0.06, middle + 0.06, low, high, MARK, Material.MARKING))
    b.add("marking", *marks)
    _pavement(b, 0.0, a0)
    _pavement(b, a1, BLOCK)
    for s in (-1, 1):
        for edge in (a0, a1):
            turn = 1 if edge == a0 else -1
            post = (edge - turn * 0.7, s * (w + 0.7), KERB_HEIGHT)
            b.add("pole", scenery.traffic_light().placed(post, 0.0 if s < 0 else np.pi))
            if b.rng.random() < b.scenario.people:
                b.put("pedestrian", edge - turn * 1.6, s * (w + 1.5), -s * 1.4, KERB_HEIGHT)
        _houses(b, s, 0.0, a0 - 3.0)
        _houses(b, s, a1 + 3.0, BLOCK)
        lane_x = middle - 1.9 if s > 0 else middle + 1.9
        y = w + 8.3
        for _ in range(int(b.rng.integers(1, 5))):
            kind = str(b.rng.choice(["car", "car", "car", "van", "bus"]))
            size = kind_mesh(kind, 0, 0).bounds()[1][0]
            if y > w + 9 and kind == "bus":
                break
            b.put(kind, lane_x, s * (y + (float(size) - 2.0)), -s * np.pi / 2)
            y += 2 * float(size) + 2.5


def _highway(b: Builder) -> None:
    w = b.scenario.half_width
    b.add(
        "road",
        patch(0, BLOCK, 1.2, w, 0.0, Material.ASPHALT),
        patch(0, BLOCK, -w, -1.2, 0.0, Material.ASPHALT),
    )
    marks = []
    for s in (-1, 1):
        for y in (5.6, 9.4):
            marks += _dashes(s * y, 0.15, 6.0, 14.0)
        for y in (1.8, 13.2):
            marks += [patch(0, BLOCK, s * y - 0.1, s * y + 0.1, MARK, Material.MARKING)]
        low, high = sorted((s * w, s * 70.0))
        b.add("terrain", patch(0, BLOCK, low, high, -0.02, Material.GRASS))
        rail = scenery.guard_rail(BLOCK)
        b.add("barrier", rail.placed((0, s * 0.8, 0)))
        b.add("barrier", rail.placed((0, s * (w + 0.6), 0)))
        b.free += [(x, s * (w + away), -0.02, 10.0) for x, away in _verge(b)]
        if b.rng.random() < 0.35:
            low, high = sorted((s * (w + 4.0), s * (w + 4.3)))
            b.add("wall", block((0, low, 0), (BLOCK, high, 3.5), Material.SHEET))
        else:
            for _ in range(int(12 * b.scenario.trees)):
                y = s * (w + float(b.rng.uniform(6, 40)))
                at = (float(b.rng.uniform(0, BLOCK)), y, 0.0)
                b.add("vegetation", scenery.tree(int(b.rng.integers(8))).placed(at))
    b.add("terrain", patch(0, BLOCK, -1.2, 1.2, 0.0, Material.GRASS))
    b.add("marking", *marks)
    if b.number % 5 == 2:
        gantry = [
            block((19.8, s * (w + 1.2) - 0.2, 0), (20.2, s * (w + 1.2) + 0.2, 7), Material.STEEL)
            for s in (-1, 1)
        ]
        gantry.append(block((19.8, -w - 1.2, 6.4), (20.2, w + 1.2, 7.0), Material.STEEL))
        gantry.append(block((19.5, -11.5, 5.6), (19.7, -4.5, 8.2), Material.SIGN))
        b.add("pole", *gantry)


def _verge(b: Builder) -> NDArray[np.float64]:
    """Free places (N, 2) along a highway: x, and metres beyond the carriageway."""
    if b.scenario.clutter == 0:
        return np.zeros((0, 2))
    return np.column_stack([b.rng.uniform(0, BLOCK, 14), 1.4 + b.rng.gamma(1.5, 3.0, 14)])


def _parking(b: Builder) -> None:
    w = b.scenario.half_width
    b.add("road", patch(0, BLOCK, -45, 45, 0.0, Material.ASPHALT))
    marks = []
    free: list[tuple[float, int]] = []
    pitch = 2.0 * w + 10.4
    for aisle in (-1, 0, 1):
        for s in (-1, 1):
            middle = aisle * pitch + s * (w + 2.6)
            for x in np.arange(0.0, BLOCK - 5.0, 2.5):
                marks.append(
                    patch(x - 0.05, x + 0.05, middle - 2.5, middle + 2.5, MARK, Material.MARKING)
                )
                if b.rng.random() < b.scenario.parked and x < BLOCK - 7.6:
                    nose_in = b.rng.random() < 0.75
                    yaw = s * np.pi / 2 * (1 if nose_in else -1) + b.rng.normal(0, 0.02)
                    kind = "van" if b.rng.random() < 0.06 else "car"
                    lateral = middle + float(b.rng.normal(0, 0.1))
                    b.put(kind, float(x) + 1.25, lateral, float(yaw))
                elif aisle == 0:
                    free.append((float(x), s))
        for s in (-1, 1):
            middle = aisle * pitch + s * (w + 2.6)
            low, high = middle - 2.5, middle + 2.5
            b.add("kerb", block((36.2, low, -0.1), (39.0, high, KERB_HEIGHT), Material.KERB))
            if b.rng.random() < b.scenario.trees:
                at = (37.6, middle, KERB_HEIGHT)
                b.add("vegetation", scenery.tree(int(b.rng.integers(8))).placed(at))
    b.add("marking", *marks)
    b.lamp(37.6, w + 4.4)
    b.lamp(37.6, -w - 4.4)
    if b.rng.random() < b.scenario.people:
        b.put("pedestrian", float(b.rng.uniform(5, 30)), w - 0.7, float(b.rng.uniform(-3, 3)))
    for s in (-1, 1):
        house = scenery.building(BLOCK, 15.0, 2, s > 0, False)
        place = (0.0, 36.0, 0.0) if s > 0 else (BLOCK, -36.0, 0.0)
        b.add("building", house.placed(place, 0.0 if s > 0 else np.pi))
    for x, s in free:
        if b.scenario.clutter > 0 and b.rng.random() < 0.6:
            b.free.append((x + 1.25, s * (w + 2.6 + float(b.rng.uniform(-1.5, 1.5))), 0.0, 2.2))
        elif b.rng.random() < 0.7:
            _low_obstacle(b, x + 0.15, s * (w + float(b.rng.uniform(-0.25, 0.2))), 2.2)


def _low_obstacle(b: Builder, x: float, y: float, length: float) -> None:
    """What stands low, thin or clear beside a slow way: the near field's hard cases."""
    kind = int(b.rng.integers(5))
    if kind == 0:
        height = float(b.rng.uniform(0.2, 0.6))
        b.add("wall", scenery.low_wall(length, height).placed((x, y, 0)))
    elif kind == 1:
        b.add("wall", scenery.glass_screen(length).placed((x, y, 0)))
    elif kind == 2:
        b.add("kerb", scenery.kerb_strip(length).placed((x, y, 0)))
    elif kind == 3:
        for along in np.arange(0.2, length, 1.2):
            post = scenery.bollard(int(b.rng.integers(6)))
            b.add("pole", post.placed((x + float(along), y, 0)))
    else:
        b.add("barrier", scenery.guard_beam(length).placed((x, y, 0)))


def _warehouse(b: Builder) -> None:
    w = b.scenario.half_width
    b.add("road", patch(0, BLOCK, -24, 24, 0.0, Material.FLOOR))
    lines = [
        patch(0, BLOCK, y - 0.05, y + 0.05, MARK, Material.MARKING) for y in (-w + 0.15, w - 0.15)
    ]
    b.add("marking", *lines)
    b.add("building", quad_ceiling())
    pitch = 2.0 * w + 2.4
    for s in (-1, 1):
        b.add("wall", block((0, s * 23.8 - 0.2, 0), (BLOCK, s * 23.8 + 0.2, 9), Material.SHEET))
        for aisle in range(2):
            for x in np.arange(0.5, BLOCK - 5.0, 2.7):
                for back in (0.0, 1.2):
                    y = s * (w + aisle * pitch + back)
                    shelf = scenery.rack(int(b.rng.integers(12)))
                    b.add("rack", shelf.placed((x, y if s > 0 else y - 1.1, 0.0)))
    for x in (8.0, 24.0):
        b.lamps.append((x, 0.0, 8.5))
        b.add("building", block((x - 0.6, -0.15, 8.7), (x + 0.6, 0.15, 8.9), Material.STREET_LAMP))
    if b.rng.random() < b.scenario.people:
        y = float(b.rng.uniform(-4, 4))
        b.put("pedestrian", BLOCK - 2.0, y, float(b.rng.uniform(-3, 3)))
    if b.rng.random() < b.scenario.parked:
        for k in range(3):
            b.put("cone", BLOCK - 3.5 + 0.9 * k, 2.6 + float(b.rng.normal(0, 0.1)), 0.0)
    for s in (-1, 1):
        for x in np.arange(0.5, BLOCK - 5.0, 2.7):
            if b.rng.random() < 0.35:
                _low_obstacle(b, float(x), s * (w - float(b.rng.uniform(0.08, 0.25))), 2.5)


def quad_ceiling() -> Mesh:
    """The ceiling of a hall, 9 m up."""
    return patch(0, BLOCK, -24, 24, 9.0, Material.SHEET)
