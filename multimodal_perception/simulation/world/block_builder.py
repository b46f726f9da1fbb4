"""Collects the static objects of one block of the world."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from multimodal_perception.simulation.world import scenery
from multimodal_perception.simulation.world.materials import Material
from multimodal_perception.simulation.world.meshes import Mesh, merge, rectangle
from multimodal_perception.simulation.world.scenarios import (
    Scenario,
    sample_clothing_colour,
    sample_paint_colour,
)
from multimodal_perception.simulation.world.scene_objects import (
    SceneObject,
    labelled_object,
    object_mesh,
    scenery_object,
)

BLOCK_LENGTH = 40.0  # metres along x
KERB_HEIGHT = 0.12  # metres
MARKING_HEIGHT = 0.004  # height of road markings above the asphalt, metres
PAVEMENT_WIDTH = 3.0  # metres


@dataclass
class BlockBuilder:
    """Collects the objects of one block; x runs from 0 to BLOCK_LENGTH.

    number: the block's number along x. objects: meshes with annotations, in the block's frame. lamps:
    positions of street and ceiling lamps, metres. clutter_positions: where clutter may stand, each x, y,
    height of the ground and maximum extent in metres.
    """

    scenario: Scenario
    number: int
    rng: np.random.Generator
    objects: list[SceneObject] = field(default_factory=list)
    lamps: list[tuple[float, float, float]] = field(default_factory=list)
    clutter_positions: list[tuple[float, float, float, float]] = field(default_factory=list)

    def add_scenery(self, semantic_class: str, *meshes: Mesh) -> None:
        """Add meshes of one class of SEMANTIC_NAMES as one static object with a random facade colour."""
        colour = tuple(float(v) for v in self.rng.uniform(0.35, 0.8) * np.array([1.0, 0.95, 0.87]))
        self.objects.append(scenery_object(merge(meshes), semantic_class, clothing_colour=colour))  # type: ignore[arg-type]

    def add_painted_scenery(self, semantic_class: str, mesh: Mesh) -> None:
        """Add static scenery with random paint and clothing colours, such as furniture and clutter."""
        clothing_colour = sample_clothing_colour(self.rng)
        paint_colour = sample_paint_colour(self.rng)
        self.objects.append(scenery_object(mesh, semantic_class, paint_colour, clothing_colour))

    def add_labelled(
        self, object_class: str, x: float, y: float, yaw: float, z: float = 0.0
    ) -> None:
        """Add a static object with a bounding box, such as a parked car or a standing pedestrian."""
        variant, phase = int(self.rng.integers(0, 1000)), int(self.rng.integers(0, 8))
        mesh = object_mesh(object_class, variant, phase, walking=False)
        # Track ids of moving objects are below 2^19, those of turning vehicles from 2^22 on.
        track = (1 << 20) + (self.number % 4096) * 256 + len(self.objects) % 256
        if self.scenario.street_life > 0.0:  # blocks with more than 256 objects
            track = (1 << 20) + (self.number % 2048) * 1024 + len(self.objects) % 1024
        clothing_colour = sample_clothing_colour(self.rng)
        paint_colour = sample_paint_colour(self.rng)
        self.objects.append(
            labelled_object(
                object_class,
                mesh,
                (x, y, z),
                yaw,
                track,
                paint_colour=paint_colour,
                clothing_colour=clothing_colour,
            )
        )

    def add_parked(
        self, x: float, y: float, yaw: float, z: float = 0.0, max_length: float = 7.5
    ) -> None:
        """Add a parked vehicle, drawn from the frequencies of the scenario, if it is short enough."""
        kinds = self.scenario.parked_frequencies or {"car": 0.88, "van": 0.12}
        weights = np.array(list(kinds.values()))
        kind = list(kinds)[int(self.rng.choice(len(kinds), p=weights / weights.sum()))]
        state = self.rng.bit_generator.state
        variant = int(self.rng.integers(0, 1000))
        self.rng.bit_generator.state = state  # add_labelled draws the same variant
        low, high = object_mesh(kind, variant, 0).bounds()
        if high[0] - low[0] <= max_length:
            self.add_labelled(kind, x, y, yaw, z)

    def add_street_lamp(self, x: float, y: float, z: float = KERB_HEIGHT) -> None:
        """Add a street lamp whose arm points towards y = 0."""
        mesh = scenery.street_lamp()
        self.add_scenery("pole", mesh.moved_to((x, y, z), 0.0 if y > 0 else np.pi))
        self.lamps.append((x, y - np.sign(y) * 1.65, 8.0))

    def add_low_obstacle(self, x: float, y: float, length: float) -> None:
        """Add a low wall, glass screen, kerb, bollards or guard beam along x.

        These are obstacles of the near field that LiDARs detect poorly.
        """
        obstacle_type = int(self.rng.integers(5))
        if obstacle_type == 0:
            height = float(self.rng.uniform(0.2, 0.6))
            self.add_scenery("wall", scenery.low_wall(length, height).moved_to((x, y, 0)))
        elif obstacle_type == 1:
            self.add_scenery("wall", scenery.glass_screen(length).moved_to((x, y, 0)))
        elif obstacle_type == 2:
            self.add_scenery("kerb", scenery.kerb_strip(length).moved_to((x, y, 0)))
        elif obstacle_type == 3:
            for along in np.arange(0.2, length, 1.2):
                post = scenery.bollard(int(self.rng.integers(6)))
                self.add_scenery("pole", post.moved_to((x + float(along), y, 0)))
        else:
            self.add_scenery("barrier", scenery.guard_beam(length).moved_to((x, y, 0)))


def dashed_line(
    y: float, width: float, dash: float, gap: float, end: float = BLOCK_LENGTH
) -> list[Mesh]:
    """A dashed road marking along x from 0 to `end`; all lengths in metres."""
    starts = np.arange(0.0, end - dash + 1e-6, dash + gap)
    return [
        rectangle(x, x + dash, y - width / 2, y + width / 2, MARKING_HEIGHT, Material.MARKING)
        for x in starts
    ]
