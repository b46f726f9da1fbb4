"""The scene at one time as a triangle mesh, and ray casting in it with Open3D (Embree)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.extras import import_package
from multimodal_perception.kernels import njit
from multimodal_perception.simulation.world.blocks import BLOCK_LENGTH, build_block
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import merge, vec3
from multimodal_perception.simulation.world.road import Road, distant_ground
from multimodal_perception.simulation.world.scenarios import Scenario
from multimodal_perception.simulation.world.scene_content import (
    ground_beyond,
    moving_scene_objects,
    on_road,
    shifted_object,
    with_random_reflection,
)
from multimodal_perception.simulation.world.scene_objects import SceneObject, scenery_object

# Number of blocks around that of the ego vehicle: at least 80 m behind and 160 m ahead.
BLOCKS_BEHIND, BLOCKS_AHEAD = 2, 4
CACHED_BLOCKS = 12
RAYCAST_THREADS = 0  # 0: all processors; the results do not depend on the number


@dataclass(frozen=True)
class RayHits:
    """Intersections of N rays with the scene.

    distance: (N,) float32 metres, inf without a hit. triangle: (N,) int32, -1 without a hit. uv: (N, 2)
    float32, barycentric weights of the triangle's second and third corner.
    """

    distance: NDArray[np.float32]
    triangle: NDArray[np.int32]
    uv: NDArray[np.float32]


@dataclass(frozen=True)
class TriangleSoup:
    """Triangles of several objects.

    corners, normals: (T, 3, 3) float32. materials: (T,) uint8. object_index: (T,) int32, index of the
    object that each triangle belongs to. ground: (T,) float32, z of the road's surface at the triangle,
    0 on level roads; heights above it determine the storeys of facades and the light near the ground.
    """

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    materials: NDArray[np.uint8]
    object_index: NDArray[np.int32]
    ground: NDArray[np.float32]

    @classmethod
    def from_objects(cls, objects: Sequence[SceneObject]) -> TriangleSoup:
        """The triangles of all objects, in their order."""
        mesh = merge([t.mesh for t in objects])
        counts = [len(t.mesh) for t in objects]
        owner = np.repeat(np.arange(len(objects), dtype=np.int32), counts)
        ground = np.repeat(np.array([t.ground for t in objects], np.float32), counts)
        return cls(mesh.corners, mesh.normals, mesh.materials, owner, ground)

    @classmethod
    def concatenate(cls, parts: Sequence[TriangleSoup]) -> TriangleSoup:
        """All triangles of several parts; the object indices stay as they are."""
        return cls(
            np.concatenate([p.corners for p in parts]),
            np.concatenate([p.normals for p in parts]),
            np.concatenate([p.materials for p in parts]),
            np.concatenate([p.object_index for p in parts]),
            np.concatenate([p.ground for p in parts]),
        )

    def shifted(self, shift: Sequence[float], first_object: int) -> TriangleSoup:
        """Translated by (x, y, z), with `first_object` added to all object indices."""
        corners = self.corners + np.array(shift, np.float32) if any(shift) else self.corners
        return replace(
            self,
            corners=corners,
            object_index=self.object_index + np.int32(first_object),
            ground=self.ground + np.float32(shift[2]),
        )


@dataclass(frozen=True)
class _Block:
    """The objects of one generated block, in the block's frame. lamps: (L, 3) positions."""

    triangles: TriangleSoup
    objects: tuple[SceneObject, ...]  # with empty meshes
    lamps: NDArray[np.float64]
    anchor: NDArray[np.float64]  # (3,) the origin of the block's frame in the odom frame


@dataclass(frozen=True)
class _StaticBlocks:
    """The static blocks around the ego vehicle, prepared for ray casting.

    It is shared by all scenes in which the ego vehicle is in the same block. low, high: x of its ends in
    the strip, relative to `start`, the x of the scene's origin in the strip, metres. origin: (3,) the
    scene's origin in the odom frame; on a straight, level road (start, 0, 0).
    """

    low: float
    high: float
    start: float
    origin: NDArray[np.float64]
    triangles: TriangleSoup
    objects: tuple[SceneObject, ...]  # with boxes in the scene's frame
    lamps: NDArray[np.float32]
    raycaster: Any


class World:
    """The world of one scenario and seed, generated block by block and cached."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.road = None if scenario.road is None else Road(scenario.road)
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._static_blocks: tuple[int, _StaticBlocks] | None = None

    def scene(self, seconds: float) -> Scene:
        """The scene around the ego vehicle at a time in seconds."""
        x = float(self.scenario.ego.pose_2d(seconds)[0])
        number = math.floor(x / BLOCK_LENGTH)
        if self._static_blocks is None or self._static_blocks[0] != number:
            self._static_blocks = number, self._build_static_blocks(number)
        static_blocks = self._static_blocks[1]
        start = static_blocks.start
        moving = moving_scene_objects(
            self.scenario,
            self.seed,
            seconds,
            (static_blocks.low + start, static_blocks.high + start),
            start,
            self.road,
            static_blocks.origin,
        )
        return Scene(static_blocks, moving, self.road)

    def ego_pose(self, seconds: float) -> NDArray[np.float64]:
        """Pose (4, 4) of base_link in the odom frame at a time in seconds."""
        if self.road is None:
            return self.scenario.ego.odom_from_base(seconds)
        x, y, yaw = self.scenario.ego.pose_2d(seconds)
        return self.road.pose(float(x), float(y), float(yaw))

    def _block(self, number: int) -> _Block:
        """A block from the cache, or generated."""
        if number not in self._blocks:
            builder = build_block(self.scenario, self.seed, number)
            objects: Sequence[SceneObject] = builder.objects
            lamps = np.array(builder.lamps, np.float64).reshape(-1, 3)
            anchor = vec3(number * BLOCK_LENGTH, 0.0, 0.0)
            if self.scenario.street_life > 0.0:
                objects = [with_random_reflection(t, self.seed) for t in objects]
            if self.road is not None:
                start = number * BLOCK_LENGTH
                anchor = self.road.to_odom([[start, 0.0, 0.0]])[0]
                objects = [on_road(t, self.road, start, anchor) for t in objects]
                lamps = self.road.to_odom(lamps + vec3(start, 0.0, 0.0)) - anchor
            annotations = tuple(replace(t, mesh=merge([])) for t in objects)
            triangles = TriangleSoup.from_objects(objects)
            if self.road is not None:
                triangles = replace(triangles, ground=_ground_below(triangles, self.road, anchor))
            self._blocks[number] = _Block(triangles, annotations, lamps, anchor)
            while len(self._blocks) > CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _build_static_blocks(self, centre: int) -> _StaticBlocks:
        """Combine the blocks around that with the number `centre` and the ground beyond them."""
        first, last = centre - BLOCKS_BEHIND, centre + BLOCKS_AHEAD
        parts: list[TriangleSoup] = []
        objects: list[SceneObject] = []
        lamps = []
        origin = self._block(centre).anchor
        for index in range(first, last + 1):
            block = self._block(index)
            shift = tuple(float(v) for v in block.anchor - origin)
            parts.append(block.triangles.shifted(shift, len(objects)))
            objects += [shifted_object(t, shift) for t in block.objects]
            lamps.append(block.lamps + vec3(*shift))
        low, high = (first - centre) * BLOCK_LENGTH, (last + 1 - centre) * BLOCK_LENGTH
        if self.road is None:
            ground = ground_beyond(self.scenario, low, high)
        else:
            middle = (centre + 0.5) * BLOCK_LENGTH
            mesh = distant_ground(self.road, middle, origin, Material.GRASS)
            ground = [scenery_object(mesh, "terrain")]
        parts.append(TriangleSoup.from_objects(ground).shifted((0.0, 0.0, 0.0), len(objects)))
        objects += [replace(t, mesh=merge([])) for t in ground]
        triangles = TriangleSoup.concatenate(parts)
        lamp_positions = np.concatenate(lamps).astype(np.float32)
        return _StaticBlocks(
            low,
            high,
            centre * BLOCK_LENGTH,
            origin,
            triangles,
            tuple(objects),
            lamp_positions,
            _build_raycaster(triangles),
        )


class Scene:
    """All objects around the ego vehicle at one time.

    The scene's frame is the odom frame translated by `origin` (3,), so that coordinates stay small
    enough for float32.

    triangles: all triangles. objects: (O, 7) float32, of each object the paint RGB, clothing RGB
    and engine heat. semantics: (O,) uint8, index into SEMANTIC_NAMES. tracks: (O,) int32 track ids,
    0 for scenery. labelled: (N,) indices of the objects with a bounding box. boxes: (N, 7) float64.
    velocities: (N, 2) m/s. pitch: (N,) of the boxes, radians. reflection: (O,) float32, see SceneObject.
    road: the road, None if it is straight and level. box_index: (O,) int32, row of each object's box, -1
    for scenery. lamps: (L, 3) float32, positions of street and ceiling lamps.
    """

    def __init__(
        self,
        static_blocks: _StaticBlocks,
        moving: Sequence[SceneObject],
        road: Road | None = None,
    ) -> None:
        self.origin = np.array(static_blocks.origin, np.float64)
        self.road = road
        self.lamps = static_blocks.lamps
        moving_soup = TriangleSoup.from_objects(moving)
        self._static = static_blocks.raycaster
        self._static_triangles = len(static_blocks.triangles.materials)
        self._dynamic = _build_raycaster(moving_soup) if len(moving_soup.materials) else None
        self.triangles = TriangleSoup.concatenate(
            [
                static_blocks.triangles,
                moving_soup.shifted((0.0, 0.0, 0.0), len(static_blocks.objects)),
            ]
        )
        objects = (*static_blocks.objects, *moving)
        colours = [[*t.paint_colour, *t.clothing_colour, t.engine_heat] for t in objects]
        self.objects = np.array(colours, np.float32)
        self.semantics = np.array([t.semantic for t in objects], np.uint8)
        self.tracks = np.array([t.track for t in objects], np.int32)
        self.labelled = np.array([i for i, t in enumerate(objects) if t.box is not None], np.int64)
        self.box_index = np.full(len(objects), -1, np.int32)
        self.box_index[self.labelled] = np.arange(len(self.labelled))
        boxes = [t.box for t in objects if t.box is not None]
        self.boxes = np.array(boxes, np.float64).reshape(-1, 7)
        velocities = [t.velocity for t in objects if t.box is not None]
        self.velocities = np.array(velocities, np.float64).reshape(-1, 2)
        self.pitch = np.array([t.pitch for t in objects if t.box is not None], np.float64)
        self.reflection = np.array([t.reflection for t in objects], np.float32)

    @classmethod
    def from_objects(cls, objects: Sequence[SceneObject]) -> Scene:
        """A scene of only these objects, with the origin at zero."""
        triangles = TriangleSoup.from_objects(objects)
        lamps = np.zeros((0, 3), np.float32)
        raycaster = _build_raycaster(triangles)
        static_blocks = _StaticBlocks(
            0.0, 0.0, 0.0, np.zeros(3), triangles, tuple(objects), lamps, raycaster
        )
        return cls(static_blocks, ())

    def cast_rays(self, rays: NDArray[np.float32]) -> RayHits:
        """First hit of each ray (N, 6): origin x y z and unit direction, in the scene's frame."""
        distance, triangle, uv = _cast(self._static, rays)
        if self._dynamic is not None:
            other_distance, number, weights = _cast(self._dynamic, rays)
            _keep_nearest(
                distance, triangle, uv, other_distance, number, weights, self._static_triangles
            )
        return RayHits(distance, triangle, uv)

    def is_occluded(
        self, rays: NDArray[np.float32], min_distance: float = 0.0, max_distance: float = math.inf
    ) -> NDArray[np.bool_]:
        """Whether any surface intersects each ray (N, 6) between the two distances.

        The distances are in multiples of the length of the ray's direction.
        """
        o3d = import_package("open3d")

        tensor = o3d.core.Tensor.from_numpy(np.ascontiguousarray(rays))
        limits = min_distance, max_distance, RAYCAST_THREADS
        occluded = self._static.test_occlusions(tensor, *limits).numpy()
        if self._dynamic is not None:
            occluded |= self._dynamic.test_occlusions(tensor, *limits).numpy()
        return occluded

    def hit_objects(self, hits: RayHits) -> NDArray[np.int32]:
        """Index (N,) into `objects` of the object that each ray hit, -1 without a hit."""
        index = self.triangles.object_index[np.maximum(hits.triangle, 0)]
        return np.where(hits.triangle >= 0, index, np.int32(-1))

    def sensor_pose(
        self, odom_from_base: NDArray[np.float64], base_from_sensor: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Pose (4, 4) of a sensor in the scene's frame, from its pose on the vehicle."""
        pose = odom_from_base @ base_from_sensor
        pose[:3, 3] -= self.origin
        return pose


def rays_from_pose(
    pose: NDArray[np.float64], directions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Rays (N, 6) from a sensor's pose (4, 4) along directions (N, 3) in the sensor's frame."""
    rays = np.empty((len(directions), 6), np.float32)
    _transform_rays(pose, directions, rays)
    return rays


@njit(nogil=True)
def _transform_rays(pose, directions, rays):  # type: ignore[no-untyped-def]
    """Write rays (N, 6); numpy's matrix product is ten times slower for (N, 3) arrays."""
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        for k in range(3):
            rays[i, k] = pose[k, 3]
            rays[i, 3 + k] = pose[k, 0] * x + pose[k, 1] * y + pose[k, 2] * z


def _build_raycaster(triangles: TriangleSoup) -> Any:
    """An Open3D RaycastingScene of the triangles."""
    o3d = import_package("open3d")

    # Built by one thread, so that the acceleration structure is the same every time.
    raycaster = o3d.t.geometry.RaycastingScene(nthreads=1)
    corners = o3d.core.Tensor.from_numpy(np.ascontiguousarray(triangles.corners.reshape(-1, 3)))
    index = np.arange(len(triangles.materials) * 3, dtype=np.uint32).reshape(-1, 3)
    raycaster.add_triangles(corners, o3d.core.Tensor.from_numpy(index))
    return raycaster


def _cast(
    raycaster: Any, rays: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Distance (N,), triangle (N,) and barycentric weights (N, 2) of the first hits, see RayHits."""
    o3d = import_package("open3d")

    result = raycaster.cast_rays(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(rays)), RAYCAST_THREADS
    )
    # Rays without a hit have the maximum uint32, which is -1 as int32.
    triangle = result["primitive_ids"].numpy().view(np.int32)
    return result["t_hit"].numpy(), triangle, result["primitive_uvs"].numpy()


@njit(nogil=True)
def _keep_nearest(distance, triangle, uv, other_distance, number, weights, first):  # type: ignore[no-untyped-def]
    """Replace hits (N,) in place by nearer ones, whose triangle numbers start at `first`."""
    for i in range(len(distance)):
        if other_distance[i] < distance[i]:
            distance[i] = other_distance[i]
            triangle[i] = number[i] + first
            uv[i, 0] = weights[i, 0]
            uv[i, 1] = weights[i, 1]


def _ground_below(
    triangles: TriangleSoup, road: Road, origin: NDArray[np.float64]
) -> NDArray[np.float32]:
    """z (T,) of the road's surface at the centre of each triangle; origin: (3,) of the triangles."""
    strip = road.to_strip(triangles.corners[..., :2].mean(axis=1) + origin[:2])
    return (road.height(strip[:, 0], strip[:, 1]) - origin[2]).astype(np.float32)
