"""The scene at one time as a triangle mesh, and ray casting in it with Open3D (Embree)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world.blocks import BLOCK_LENGTH, build_block
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import merge, rectangle, vec3
from multimodal_perception.simulation.world.people import GAIT_CYCLE_LENGTH, GAIT_PHASES
from multimodal_perception.simulation.world.scenarios import Scenario, moving_objects
from multimodal_perception.simulation.world.scene_objects import (
    SceneObject,
    labelled_object,
    object_mesh,
    scenery_object,
)

# Number of blocks around that of the ego vehicle: at least 80 m behind and 160 m ahead.
BLOCKS_BEHIND, BLOCKS_AHEAD = 2, 4
# Moving people beyond this distance are left out: they cover about one pixel, and ground-truth boxes end
# at 100 m.
SMALL_OBJECT_RANGE = 105.0
GROUND_EXTENT = 1500.0  # size of the ground beyond the blocks, metres
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
    object that each triangle belongs to.
    """

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    materials: NDArray[np.uint8]
    object_index: NDArray[np.int32]

    @classmethod
    def from_objects(cls, objects: Sequence[SceneObject]) -> TriangleSoup:
        """The triangles of all objects, in their order."""
        mesh = merge([t.mesh for t in objects])
        counts = [len(t.mesh) for t in objects]
        owner = np.repeat(np.arange(len(objects), dtype=np.int32), counts)
        return cls(mesh.corners, mesh.normals, mesh.materials, owner)

    @classmethod
    def concatenate(cls, parts: Sequence[TriangleSoup]) -> TriangleSoup:
        """All triangles of several parts; the object indices stay as they are."""
        return cls(
            np.concatenate([p.corners for p in parts]),
            np.concatenate([p.normals for p in parts]),
            np.concatenate([p.materials for p in parts]),
            np.concatenate([p.object_index for p in parts]),
        )

    def shifted(self, x: float, first_object: int) -> TriangleSoup:
        """Translated along x, with `first_object` added to all object indices."""
        corners = self.corners + np.array([x, 0.0, 0.0], np.float32) if x else self.corners
        return replace(
            self, corners=corners, object_index=self.object_index + np.int32(first_object)
        )


@dataclass(frozen=True)
class _Block:
    """The objects of one generated block, in the block's frame. lamps: (L, 3) positions."""

    triangles: TriangleSoup
    objects: tuple[SceneObject, ...]  # with empty meshes
    lamps: NDArray[np.float64]


@dataclass(frozen=True)
class _StaticBlocks:
    """The static blocks around the ego vehicle, prepared for ray casting.

    It is shared by all scenes in which the ego vehicle is in the same block. low, high: x of its ends in
    the scene's frame; origin_x: x of the scene's origin in the odom frame, metres.
    """

    low: float
    high: float
    origin_x: float
    triangles: TriangleSoup
    objects: tuple[SceneObject, ...]  # with boxes in the scene's frame
    lamps: NDArray[np.float32]
    raycaster: Any


class World:
    """The world of one scenario and seed, generated block by block and cached."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._static_blocks: tuple[int, _StaticBlocks] | None = None

    def scene(self, seconds: float) -> Scene:
        """The scene around the ego vehicle at a time in seconds."""
        x = float(self.scenario.ego.pose_2d(seconds)[0])
        number = math.floor(x / BLOCK_LENGTH)
        if self._static_blocks is None or self._static_blocks[0] != number:
            self._static_blocks = number, self._build_static_blocks(number)
        static_blocks = self._static_blocks[1]
        return Scene(static_blocks, _moving_scene_objects(self, seconds, static_blocks))

    def _block(self, number: int) -> _Block:
        """A block from the cache, or generated."""
        if number not in self._blocks:
            builder = build_block(self.scenario, self.seed, number)
            annotations = tuple(replace(t, mesh=merge([])) for t in builder.objects)
            lamps = np.array(builder.lamps, np.float64).reshape(-1, 3)
            self._blocks[number] = _Block(
                TriangleSoup.from_objects(builder.objects), annotations, lamps
            )
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
        for index in range(first, last + 1):
            block, shift = self._block(index), (index - centre) * BLOCK_LENGTH
            parts.append(block.triangles.shifted(shift, len(objects)))
            objects += [_shifted(t, shift) for t in block.objects]
            lamps.append(block.lamps + vec3(shift, 0.0, 0.0))
        low, high = (first - centre) * BLOCK_LENGTH, (last + 1 - centre) * BLOCK_LENGTH
        ground = _ground_beyond(self.scenario, low, high)
        parts.append(TriangleSoup.from_objects(ground).shifted(0.0, len(objects)))
        objects += [replace(t, mesh=merge([])) for t in ground]
        triangles = TriangleSoup.concatenate(parts)
        lamp_positions = np.concatenate(lamps).astype(np.float32)
        origin_x = centre * BLOCK_LENGTH
        return _StaticBlocks(
            low,
            high,
            origin_x,
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
    velocities: (N, 2) m/s. box_index: (O,) int32, row of each object's box, -1 for scenery. lamps:
    (L, 3) float32, positions of street and ceiling lamps.
    """

    def __init__(self, static_blocks: _StaticBlocks, moving: Sequence[SceneObject]) -> None:
        self.origin = np.array([static_blocks.origin_x, 0.0, 0.0])
        self.lamps = static_blocks.lamps
        moving_soup = TriangleSoup.from_objects(moving)
        self._static = static_blocks.raycaster
        self._static_triangles = len(static_blocks.triangles.materials)
        self._dynamic = _build_raycaster(moving_soup) if len(moving_soup.materials) else None
        self.triangles = TriangleSoup.concatenate(
            [static_blocks.triangles, moving_soup.shifted(0.0, len(static_blocks.objects))]
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

    @classmethod
    def from_objects(cls, objects: Sequence[SceneObject]) -> Scene:
        """A scene of only these objects, with the origin at zero."""
        triangles = TriangleSoup.from_objects(objects)
        lamps = np.zeros((0, 3), np.float32)
        raycaster = _build_raycaster(triangles)
        return cls(_StaticBlocks(0.0, 0.0, 0.0, triangles, tuple(objects), lamps, raycaster), ())

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
        import open3d as o3d

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


@numba.njit(cache=True, nogil=True)
def _transform_rays(pose, directions, rays):  # type: ignore[no-untyped-def]
    """Write rays (N, 6); numpy's matrix product is ten times slower for (N, 3) arrays."""
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        for k in range(3):
            rays[i, k] = pose[k, 3]
            rays[i, 3 + k] = pose[k, 0] * x + pose[k, 1] * y + pose[k, 2] * z


def _build_raycaster(triangles: TriangleSoup) -> Any:
    """An Open3D RaycastingScene of the triangles."""
    import open3d as o3d

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
    import open3d as o3d

    result = raycaster.cast_rays(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(rays)), RAYCAST_THREADS
    )
    # Rays without a hit have the maximum uint32, which is -1 as int32.
    triangle = result["primitive_ids"].numpy().view(np.int32)
    return result["t_hit"].numpy(), triangle, result["primitive_uvs"].numpy()


@numba.njit(cache=True, nogil=True)
def _keep_nearest(distance, triangle, uv, other_distance, number, weights, first):  # type: ignore[no-untyped-def]
    """Replace hits (N,) in place by nearer ones, whose triangle numbers start at `first`."""
    for i in range(len(distance)):
        if other_distance[i] < distance[i]:
            distance[i] = other_distance[i]
            triangle[i] = number[i] + first
            uv[i, 0] = weights[i, 0]
            uv[i, 1] = weights[i, 1]


def _shifted(scene_object: SceneObject, shift: float) -> SceneObject:
    """The object with its bounding box translated along x."""
    if scene_object.box is None:
        return scene_object
    return replace(scene_object, box=(scene_object.box[0] + shift, *scene_object.box[1:]))


def _moving_scene_objects(
    world: World, seconds: float, static_blocks: _StaticBlocks
) -> list[SceneObject]:
    """The moving objects near the ego vehicle at a time, in the scene's frame."""
    objects = []
    ego_x = float(world.scenario.ego.pose_2d(seconds)[0])
    low, high = (
        static_blocks.low + static_blocks.origin_x,
        static_blocks.high + static_blocks.origin_x,
    )
    for track, lane, item, x in moving_objects(world.scenario, world.seed, seconds, low, high):
        is_small = item.object_class in ("pedestrian", "cyclist")
        if is_small and abs(x - ego_x) > SMALL_OBJECT_RANGE:
            continue
        phase = math.floor(abs(x) / GAIT_CYCLE_LENGTH * GAIT_PHASES) % GAIT_PHASES
        objects.append(
            labelled_object(
                item.object_class,
                object_mesh(item.object_class, item.variant, phase),
                (x - static_blocks.origin_x, item.y, lane.z),
                0.0 if lane.speed > 0 else math.pi,
                track,
                (lane.speed, 0.0),
                item.paint_colour,
                item.clothing_colour,
                engine_heat=1.0,
            )
        )
    return objects


def _ground_beyond(scenario: Scenario, low: float, high: float) -> list[SceneObject]:
    """Road and ground in front of, behind and beside the blocks, up to GROUND_EXTENT."""
    if scenario.indoor:
        return []
    w = scenario.half_width
    road, terrain = [], [rectangle(low, high, -GROUND_EXTENT, -44.0, -0.05, Material.GRASS)]
    terrain.append(rectangle(low, high, 44.0, GROUND_EXTENT, -0.05, Material.GRASS))
    for x0, x1 in ((low - GROUND_EXTENT, low), (high, high + GROUND_EXTENT)):
        road.append(rectangle(x0, x1, -w, w, 0.0, Material.ASPHALT))
        terrain.append(rectangle(x0, x1, -GROUND_EXTENT, -w, -0.03, Material.GRASS))
        terrain.append(rectangle(x0, x1, w, GROUND_EXTENT, -0.03, Material.GRASS))
    return [scenery_object(merge(road), "road"), scenery_object(merge(terrain), "terrain")]
