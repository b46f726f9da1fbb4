"""Blocks of streets and intersections."""

from __future__ import annotations

import numpy as np

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.block_builder import (
    BLOCK_LENGTH,
    KERB_HEIGHT,
    MARKING_HEIGHT,
    PAVEMENT_WIDTH,
    BlockBuilder,
    dashed_line,
)
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, cuboid, rectangle
from multimodal_perception.simulation.world.scene_objects import object_mesh
from multimodal_perception.simulation.world.street_life import add_car_park

# Half the width of the street that crosses at an intersection, metres.
CROSSING_HALF_WIDTH = 6.0
# Vehicles that wait at the stop lines of the crossing street, in the profiles basic and realistic.
QUEUE = ("car", "car", "car", "van", "bus")
QUEUE_KINDS = (
    "saloon",
    "suv",
    "suv",
    "saloon",
    "large_van",
    "pickup",
    "box_lorry",
    "bus",
    "motorcyclist",
)


def build_street(b: BlockBuilder) -> None:
    """Add a straight two-way street with parked cars, pavements, buildings and pedestrians."""
    w = b.scenario.half_width
    b.add_scenery("road", rectangle(0, BLOCK_LENGTH, -w, w, 0.0, Material.ASPHALT))
    marks = dashed_line(0.0, 0.12, 3.0, 5.0)
    for s in (-1, 1):
        marks += dashed_line(s * (w - 2.2), 0.12, 1.0, 1.0)
    for y in b.scenario.lane_marks:
        marks += dashed_line(y, 0.12, 3.0, 5.0)
    b.add_scenery("marking", *marks)
    _add_pavement(b, 0.0, BLOCK_LENGTH)
    for s in (-1, 1):
        _add_buildings(b, s, 0.0, BLOCK_LENGTH)
        _add_kerbside_objects(b, s)
        for x in np.arange(3.4, BLOCK_LENGTH - 2.0, 6.6):
            if b.rng.random() < b.scenario.parking_occupancy:
                object_class = "van" if b.rng.random() < 0.12 else "car"
                side = s * (w - 1.12) + b.rng.normal(0, 0.05)
                along = float(x) + b.rng.uniform(-0.5, 0.5)
                reversed_heading = b.rng.random() < 0.08
                yaw = (0.0 if s < 0 else np.pi) + (np.pi if reversed_heading else 0.0)
                if b.scenario.parked_frequencies:
                    turn = float(b.rng.normal(0, 0.02))
                    b.add_parked(along, side, yaw + turn, max_length=6.4)
                    continue
                b.add_labelled(object_class, along, side, yaw + float(b.rng.normal(0, 0.012)))
            elif b.rng.random() < 0.2:
                _add_road_works(b, float(x), s * (w - 1.1))
            else:
                for along in (-1.5, 1.5):
                    b.clutter_positions.append(
                        (float(x) + along, s * (w - 1.1 + 0.2 * along), 0.0, 2.0)
                    )
        if b.rng.random() < b.scenario.pedestrian_density:
            x = float(b.rng.uniform(3, 37))
            for k in range(int(b.rng.integers(1, 4))):
                b.add_labelled(
                    "pedestrian", x + 0.7 * k, s * (w + 2.4), b.rng.uniform(-3, 3), KERB_HEIGHT
                )


def is_side_free(number: int, s: int) -> bool:
    """Whether turning vehicles come out of a side of the crossing street, which then has no queue.

    number: of the block. s: side, the sign of y.
    """
    return (number // 3 + (s > 0)) % 2 == 0


def build_intersection(b: BlockBuilder) -> None:
    """Add an intersection: a crossing street, zebra crossings, traffic lights and waiting vehicles."""
    w, centre = b.scenario.half_width, BLOCK_LENGTH / 2
    a0, a1 = centre - CROSSING_HALF_WIDTH, centre + CROSSING_HALF_WIDTH
    b.add_scenery(
        "road",
        rectangle(0, BLOCK_LENGTH, -w, w, 0.0, Material.ASPHALT),
        rectangle(a0, a1, w, 70, 0.0, Material.ASPHALT),
        rectangle(a0, a1, -70, -w, 0.0, Material.ASPHALT),
    )
    b.add_scenery("marking", *_intersection_markings(w))
    _add_pavement(b, 0.0, a0)
    _add_pavement(b, a1, BLOCK_LENGTH)
    for s in (-1, 1):
        for edge in (a0, a1):
            direction = 1 if edge == a0 else -1
            post = (edge - direction * 0.7, s * (w + 0.7), KERB_HEIGHT)
            b.add_scenery("pole", scenery.traffic_light().moved_to(post, 0.0 if s < 0 else np.pi))
            if b.rng.random() < b.scenario.pedestrian_density:
                x = edge - direction * 1.6
                b.add_labelled("pedestrian", x, s * (w + 1.5), -s * 1.4, KERB_HEIGHT)
        _add_buildings(b, s, 0.0, a0 - 3.0)
        _add_buildings(b, s, a1 + 3.0, BLOCK_LENGTH)
        if not (b.scenario.turning_vehicles and is_side_free(b.number, s)):
            _add_queue(b, s)


def _add_queue(b: BlockBuilder, s: int) -> None:
    """Add vehicles that wait at the stop line of the crossing street; s: side, the sign of y."""
    w, centre = b.scenario.half_width, BLOCK_LENGTH / 2
    lane_x = centre - 1.9 if s > 0 else centre + 1.9
    y = w + 8.3
    for _ in range(int(b.rng.integers(1, 5))):
        object_class = str(b.rng.choice(QUEUE_KINDS if b.scenario.street_life > 0 else QUEUE))
        half_length = float(object_mesh(object_class, 0, 0).bounds()[1][0])
        if y > w + 9 and object_class == "bus":
            break
        b.add_labelled(object_class, lane_x, s * (y + (half_length - 2.0)), -s * np.pi / 2)
        y += 2 * half_length + 2.5


def _intersection_markings(w: float) -> list[Mesh]:
    """Centre lines, zebra crossings and stop lines; w: half the width of the main street, metres."""
    half, centre = CROSSING_HALF_WIDTH, BLOCK_LENGTH / 2
    a0, a1 = centre - half, centre + half
    marks = dashed_line(0.0, 0.12, 3.0, 3.0, a0 - 6.0)
    marks += [m.moved_to((a1 + 6.0, 0, 0)) for m in dashed_line(0.0, 0.12, 3.0, 3.0, a0 - 6.0)]
    for s in (-1, 1):
        stripes = np.arange(-w + 0.5, w - 0.4, 1.0)
        along = centre + s * (half + 2.5)
        marks += [
            rectangle(along - 1.5, along + 1.5, y, y + 0.5, MARKING_HEIGHT, Material.MARKING)
            for y in stripes
        ]
        stripes = np.arange(a0 + 0.5, a1 - 0.4, 1.0)
        low, high = sorted((s * (w + 1.0), s * (w + 4.0)))
        marks += [
            rectangle(x, x + 0.5, low, high, MARKING_HEIGHT, Material.MARKING) for x in stripes
        ]
        low, high = sorted((s * (w + 5.0), s * (w + 5.4)))
        lane = (a0 + 0.2, centre - 0.1) if s > 0 else (centre + 0.1, a1 - 0.2)
        marks.append(rectangle(*lane, low, high, MARKING_HEIGHT, Material.MARKING))
        for y in np.arange(w + 6.0, 60.0, 6.0):
            low, high = sorted((s * y, s * (y + 3.0)))
            marks.append(
                rectangle(centre - 0.06, centre + 0.06, low, high, MARKING_HEIGHT, Material.MARKING)
            )
    return marks


def _add_pavement(b: BlockBuilder, x0: float, x1: float) -> None:
    """Add kerbs, pavements and the ground behind them on both sides, from x0 to x1."""
    w = b.scenario.half_width
    for s in (-1, 1):
        kerb_edges = s * w, s * (w + 0.2)
        outer = s * (w + PAVEMENT_WIDTH)
        low, high = sorted(kerb_edges)
        b.add_scenery("kerb", cuboid((x0, low, -0.1), (x1, high, KERB_HEIGHT), Material.KERB))
        low, high = sorted((kerb_edges[1], outer))
        b.add_scenery("sidewalk", rectangle(x0, x1, low, high, KERB_HEIGHT, Material.SLABS))
        low, high = sorted((outer, s * 45.0))
        b.add_scenery("terrain", rectangle(x0, x1, low, high, KERB_HEIGHT - 0.02, Material.GRASS))


def _add_road_works(b: BlockBuilder, x: float, y: float) -> None:
    """Add four traffic cones and a barrier."""
    for k in range(4):
        b.add_labelled("cone", x - 1.8 + 1.2 * k, y - 0.9 * np.sign(y) + b.rng.normal(0, 0.08), 0.0)
    b.add_labelled("barrier", x, y, float(b.rng.normal(0, 0.05)))


def _add_kerbside_objects(b: BlockBuilder, s: int) -> None:
    """Add trees, a street lamp and a traffic sign along the kerb; s: side, the sign of y."""
    w = b.scenario.half_width
    for x in np.arange(4.0, BLOCK_LENGTH, 8.0):
        if b.rng.random() < b.scenario.tree_density:
            position = (float(x) + 1.0, s * (w + 0.75), KERB_HEIGHT)
            tree = scenery.tree(int(b.rng.integers(8)))
            b.add_scenery("vegetation", tree.moved_to(position, float(b.rng.uniform(0, 6))))
    b.add_street_lamp(8.0 if s > 0 else 28.0, s * (w + 0.6))
    if b.rng.random() < 0.6:
        position = (float(b.rng.uniform(14, 26)), s * (w + 0.5), KERB_HEIGHT)
        yaw = 0.0 if s < 0 else np.pi
        b.add_scenery("pole", scenery.traffic_sign(int(b.rng.integers(2))).moved_to(position, yaw))


def _add_buildings(b: BlockBuilder, s: int, x0: float, x1: float) -> None:
    """Add adjacent buildings and gardens between x0 and x1; s: side, the sign of y."""
    front = b.scenario.half_width + PAVEMENT_WIDTH + 0.4
    x = x0
    while x < x1 - 4.0:
        length = min(float(b.rng.uniform(9.0, 17.0)), x1 - x)
        if x1 - x - length < 6.0:
            length = x1 - x
        depth = float(b.rng.uniform(8.0, 12.0))
        storeys = int(b.rng.integers(b.scenario.storeys[0], b.scenario.storeys[1] + 1))
        brick, gable = b.rng.random() < 0.45, b.rng.random() < 0.55
        if b.scenario.street_life > 0.0 and b.rng.random() < 0.15:
            add_car_park(b, s, x, length, front)
        elif b.rng.random() < b.scenario.garden_ratio:
            _add_garden(b, s, x, length, front)
        else:
            house = scenery.building(length - 0.02, depth, storeys, bool(brick), bool(gable))
            setback = float(b.rng.uniform(0.0, 0.8))
            origin = (x, front + setback, 0.0) if s > 0 else (x + length, -front - setback, 0.0)
            b.add_scenery("building", house.moved_to(origin, 0.0 if s > 0 else np.pi))
        x += length


def _add_garden(b: BlockBuilder, s: int, x: float, length: float, front: float) -> None:
    """Add a garden behind a wall, a fence or an open front, on the side s (sign of y)."""
    border = b.rng.random()
    if b.scenario.clutter_density > 0:
        # With clutter, 60 % of the gardens are open to the street and all have a house at the back. The
        # maximum extents keep the clutter off the pavement.
        for offset, max_extent in ((0.8, 1.2), (3.2, 4.5), (6.0, 6.0)):
            for along in np.arange(0.8, length, 1.9):
                dx, dy = b.rng.uniform(-0.4, 0.4), b.rng.uniform(-0.2, 1.2)
                b.clutter_positions.append(
                    (x + along + dx, s * (front + offset + dy), KERB_HEIGHT - 0.02, max_extent)
                )
        border *= 2.5
        house = scenery.building(length - 0.02, 9.0, 2, bool(b.rng.random() < 0.5), True)
        back = front + 9.5
        origin = (x, back, 0.0) if s > 0 else (x + length, -back, 0.0)
        b.add_scenery("building", house.moved_to(origin, 0.0 if s > 0 else np.pi))
    if border < 0.5:
        low, high = sorted((s * front, s * (front + 0.25)))
        b.add_scenery("wall", cuboid((x, low, 0), (x + length, high, 1.5), Material.BRICK))
    elif border < 1.0:
        b.add_scenery("fence", scenery.fence(length).moved_to((x, s * front, KERB_HEIGHT)))
    for _ in range(3):
        position = (x + b.rng.uniform(1, length - 1), s * (front + b.rng.uniform(2, 9)), 0.05)
        is_tree = b.rng.random() < 0.6
        plant = scenery.tree(int(b.rng.integers(8))) if is_tree else scenery.bush(0)
        b.add_scenery("vegetation", plant.moved_to(position))
