"""One moment of a scenario as triangles, and rays cast into it by Open3D (Embree)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world.blocks import BLOCK, build_block
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import at, merge, patch
from multimodal_perception.simulation.world.people import PHASES, STEP_LENGTH
from multimodal_perception.simulation.world.placing import Thing, kind_mesh, labelled, scenic
from multimodal_perception.simulation.world.scenarios import Scenario, movers

# Blocks kept about the ego's own: 80 m behind and 120 to 160 m ahead at least.
BLOCKS_BEHIND, BLOCKS_AHEAD = 2, 4
# People further away would be a pixel; boxes end at 100 m.
SMALL_RANGE = 105.0
FAR = 1500.0  # the ground beyond the blocks ends there
THREADS = 0  # all that there are; a ray's answer does not depend on it


@dataclass(frozen=True)
class Hits:
    """What N rays met. distance: (N,) float32, inf for nothing. triangle: (N,) int32, -1 for nothing.
    uv: (N, 2) float32, weights of the second and third corner.
    """

    distance: NDArray[np.float32]
    triangle: NDArray[np.int32]
    uv: NDArray[np.float32]


@dataclass(frozen=True)
class Soup:
    """Triangles of many things. object_of: (T,) int32, which of the things each belongs to."""

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    materials: NDArray[np.uint8]
    object_of: NDArray[np.int32]

    @classmethod
    def of(cls, things: Sequence[Thing]) -> Soup:
        mesh = merge([t.mesh for t in things])
        counts = [len(t.mesh) for t in things]
        owner = np.repeat(np.arange(len(things), dtype=np.int32), counts)
        return cls(mesh.corners, mesh.normals, mesh.materials, owner)

    @classmethod
    def joined(cls, soups: Sequence[Soup]) -> Soup:
        return cls(
            np.concatenate([s.corners for s in soups]),
            np.concatenate([s.normals for s in soups]),
            np.concatenate([s.materials for s in soups]),
            np.concatenate([s.object_of for s in soups]),
        )

    def moved(self, x: float, first_object: int) -> Soup:
        """Moved along x, its things counted on from a number."""
        corners = self.corners + np.array([x, 0.0, 0.0], np.float32) if x else self.corners
        return replace(self, corners=corners, object_of=self.object_of + np.int32(first_object))


@dataclass(frozen=True)
class _Block:
    soup: Soup
    things: tuple[Thing, ...]  # without their meshes
    lamps: NDArray[np.float64]


@dataclass(frozen=True)
class _Window:
    """The still blocks about the ego, ready for rays; shared by the scenes of many moments."""

    low: float
    high: float
    origin_x: float
    soup: Soup
    things: tuple[Thing, ...]  # with boxes in the scene's frame
    lamps: NDArray[np.float32]
    caster: Any


class World:
    """The still part of one scenario and seed, made when it is come to and kept a while."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._window: tuple[int, _Window] | None = None

    def scene(self, seconds: float) -> Scene:
        """The world about the ego at one moment."""
        x = float(self.scenario.ego.place(seconds)[0])
        number = math.floor(x / BLOCK)
        if self._window is None or self._window[0] != number:
            self._window = number, self._surroundings(number)
        window = self._window[1]
        return Scene(window, _moving(self, seconds, window), seconds)

    def _block(self, number: int) -> _Block:
        if number not in self._blocks:
            made = build_block(self.scenario, self.seed, number)
            bare = tuple(replace(t, mesh=merge([])) for t in made.things)
            lamps = np.array(made.lamps, np.float64).reshape(-1, 3)
            self._blocks[number] = _Block(Soup.of(made.things), bare, lamps)
            while len(self._blocks) > 12:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _surroundings(self, middle: int) -> _Window:
        first, last = middle - BLOCKS_BEHIND, middle + BLOCKS_AHEAD
        soups: list[Soup] = []
        things: list[Thing] = []
        lamps = []
        for number in range(first, last + 1):
            block, shift = self._block(number), (number - middle) * BLOCK
            soups.append(block.soup.moved(shift, len(things)))
            things += [_shifted(t, shift) for t in block.things]
            lamps.append(block.lamps + at(shift, 0.0, 0.0))
        low, high = (first - middle) * BLOCK, (last + 1 - middle) * BLOCK
        rest = _beyond(self.scenario, low, high)
        soups.append(Soup.of(rest).moved(0.0, len(things)))
        things += [replace(t, mesh=merge([])) for t in rest]
        soup = Soup.joined(soups)
        places = np.concatenate(lamps).astype(np.float32)
        origin_x = middle * BLOCK
        return _Window(low, high, origin_x, soup, tuple(things), places, _caster(soup))


class Scene:
    """Everything about the ego at one moment.

    Positions are in odom less `origin` (3,), which keeps them small for float32. soup: all triangles.
    objects: (O, 7) float32, paint and cloth RGB, running. semantics: (O,) uint8. tracks: (O,) int32.
    labelled: (N,) rows of the objects with a box; boxes: (N, 7) float64; velocities: (N, 2). box_of:
    (O,) int32, each object's row of boxes, -1 for scenery.
    lamps: (L, 3) float32, places of street lamps.
    """

    def __init__(self, window: _Window, own: Sequence[Thing], seconds: float) -> None:
        self.origin = np.array([window.origin_x, 0.0, 0.0])
        self.seconds = seconds
        self.lamps = window.lamps
        moving = Soup.of(own)
        self._still, self._count = window.caster, len(window.soup.materials)
        self._moving = _caster(moving) if len(moving.materials) else None
        self.soup = Soup.joined([window.soup, moving.moved(0.0, len(window.things))])
        things = (*window.things, *own)
        self.objects = np.array([[*t.paint, *t.cloth, t.running] for t in things], np.float32)
        self.semantics = np.array([t.semantic for t in things], np.uint8)
        self.tracks = np.array([t.track for t in things], np.int32)
        self.labelled = np.array([i for i, t in enumerate(things) if t.box is not None], np.int64)
        self.box_of = np.full(len(things), -1, np.int32)
        self.box_of[self.labelled] = np.arange(len(self.labelled))
        boxes = [t.box for t in things if t.box is not None]
        self.boxes = np.array(boxes, np.float64).reshape(-1, 7)
        speeds = [t.velocity for t in things if t.box is not None]
        self.velocities = np.array(speeds, np.float64).reshape(-1, 2)

    @classmethod
    def of(cls, things: Sequence[Thing]) -> Scene:
        """A scene of these things alone, about the origin."""
        soup = Soup.of(things)
        none = np.zeros((0, 3), np.float32)
        return cls(_Window(0.0, 0.0, 0.0, soup, tuple(things), none, _caster(soup)), (), 0.0)

    def cast(self, rays: NDArray[np.float32]) -> Hits:
        """The first thing on each ray (N, 6): x y z and unit direction, in the scene's frame."""
        distance, triangle, uv = _cast(self._still, rays)
        if self._moving is not None:
            nearer, number, weights = _cast(self._moving, rays)
            _take_nearer(distance, triangle, uv, nearer, number, weights, self._count)
        return Hits(distance, triangle, uv)

    def hidden(
        self, rays: NDArray[np.float32], nearest: float = 0.0, furthest: float = math.inf
    ) -> NDArray[np.bool_]:
        """Whether anything lies on each ray (N, 6) between two multiples of its direction."""
        import open3d as o3d

        tensor = o3d.core.Tensor.from_numpy(np.ascontiguousarray(rays))
        found = self._still.test_occlusions(tensor, nearest, furthest, THREADS).numpy()
        if self._moving is not None:
            found |= self._moving.test_occlusions(tensor, nearest, furthest, THREADS).numpy()
        return found

    def seen_objects(self, hits: Hits) -> NDArray[np.int32]:
        """Row of `objects` that each ray hit (N,), -1 for nothing."""
        found = self.soup.object_of[np.maximum(hits.triangle, 0)]
        return np.where(hits.triangle >= 0, found, np.int32(-1))

    def sensor_pose(
        self, odom_from_base: NDArray[np.float64], base_from_sensor: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Pose (4, 4) of a sensor in the scene's frame."""
        pose = odom_from_base @ base_from_sensor
        pose[:3, 3] -= self.origin
        return pose


def rays_from(pose: NDArray[np.float64], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rays (N, 6) from a sensor's pose along directions (N, 3) in its own frame."""
    rays = np.empty((len(directions), 6), np.float32)
    _turn(pose, directions, rays)
    return rays


@numba.njit(cache=True, nogil=True)
def _turn(pose, directions, rays):  # type: ignore[no-untyped-def]
    # NumPy's product of so thin matrices costs ten times as much.
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        for k in range(3):
            rays[i, k] = pose[k, 3]
            rays[i, 3 + k] = pose[k, 0] * x + pose[k, 1] * y + pose[k, 2] * z


def _caster(soup: Soup) -> Any:
    import open3d as o3d

    # One thread builds the tree, so that it is the same every time.
    caster = o3d.t.geometry.RaycastingScene(nthreads=1)
    corners = o3d.core.Tensor.from_numpy(np.ascontiguousarray(soup.corners.reshape(-1, 3)))
    index = np.arange(len(soup.materials) * 3, dtype=np.uint32).reshape(-1, 3)
    caster.add_triangles(corners, o3d.core.Tensor.from_numpy(index))
    return caster


def _cast(
    caster: Any, rays: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    import open3d as o3d

    answer = caster.cast_rays(o3d.core.Tensor.from_numpy(np.ascontiguousarray(rays)), THREADS)
    # Nothing is the largest uint32, which is -1 here.
    triangle = answer["primitive_ids"].numpy().view(np.int32)
    return answer["t_hit"].numpy(), triangle, answer["primitive_uvs"].numpy()


@numba.njit(cache=True, nogil=True)
def _take_nearer(distance, triangle, uv, nearer, number, weights, first):  # type: ignore[no-untyped-def]
    for i in range(len(distance)):
        if nearer[i] < distance[i]:
            distance[i] = nearer[i]
            triangle[i] = number[i] + first
            uv[i, 0] = weights[i, 0]
            uv[i, 1] = weights[i, 1]


def _shifted(thing: Thing, shift: float) -> Thing:
    if thing.box is None:
        return thing
    return replace(thing, box=(thing.box[0] + shift, *thing.box[1:]))


def _moving(world: World, seconds: float, window: _Window) -> list[Thing]:
    things = []
    ego_x = float(world.scenario.ego.place(seconds)[0])
    low, high = window.low + window.origin_x, window.high + window.origin_x
    for track, lane, mover, x in movers(world.scenario, world.seed, seconds, low, high):
        small = mover.kind in ("pedestrian", "cyclist")
        if small and abs(x - ego_x) > SMALL_RANGE:
            continue
        phase = math.floor(abs(x) / STEP_LENGTH * PHASES) % PHASES
        things.append(
            labelled(
                mover.kind,
                kind_mesh(mover.kind, mover.variant, phase),
                (x - window.origin_x, mover.y, lane.z),
                0.0 if lane.speed > 0 else math.pi,
                track,
                (lane.speed, 0.0),
                mover.paint,
                mover.cloth,
                running=1.0,
            )
        )
    return things


def _beyond(scenario: Scenario, low: float, high: float) -> list[Thing]:
    """The way and the land before and behind the blocks, to the horizon."""
    if scenario.indoor:
        return []
    w = scenario.half_width
    road, land = [], [patch(low, high, -FAR, -44.0, -0.05, Material.GRASS)]
    land.append(patch(low, high, 44.0, FAR, -0.05, Material.GRASS))
    for x0, x1 in ((low - FAR, low), (high, high + FAR)):
        road.append(patch(x0, x1, -w, w, 0.0, Material.ASPHALT))
        land.append(patch(x0, x1, -FAR, -w, -0.03, Material.GRASS))
        land.append(patch(x0, x1, w, FAR, -0.03, Material.GRASS))
    return [scenic(merge(road), "road"), scenic(merge(land), "terrain")]
