"""Load levels at which a fusion detector reduces its computing time; see stages.LoadAdaptive."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from multimodal_perception.frame import SensorFrame

FULL, HALF_IMAGES, NO_REFINEMENT, GEOMETRIC = "full", "half_images", "no_refinement", "geometric"
T = TypeVar("T")


def available_levels(has_images: bool, has_refinement: bool) -> tuple[str, ...]:
    """Return the load levels of a detector, from full accuracy to the lowest computing time.

    Each level includes the savings of the levels before it. half_images: only every second image of each
    modality is processed. no_refinement: the second stage does not run. geometric: the geometric
    detector replaces the networks.
    """
    images = (HALF_IMAGES,) if has_images else ()
    refinement = (NO_REFINEMENT,) if has_refinement else ()
    return (FULL, *images, *refinement, GEOMETRIC)


def check_level(level: int, levels: tuple[str, ...]) -> int:
    """Return the level. Raises ValueError if it is no index of `levels`."""
    if not 0 <= level < len(levels):
        raise ValueError(f"load level {level}; allowed: 0 to {len(levels) - 1}")
    return level


def alternate_images(frame: SensorFrame, index: int) -> tuple[SensorFrame, int]:
    """Return the frame with every second image of each modality, and the number of skipped images.

    index: number of the frame; consecutive frames keep the other half of the images. The only image of a
    modality is always kept. Only images with intrinsics and extrinsics count.
    """
    cameras, skipped_cameras = _alternate(frame, frame.cameras, index)
    thermals, skipped_thermals = _alternate(frame, frame.thermals, index)
    kept = dataclasses.replace(frame, cameras=cameras, thermals=thermals)
    return kept, skipped_cameras + skipped_thermals


def _alternate(frame: SensorFrame, images: Mapping[str, T], index: int) -> tuple[dict[str, T], int]:
    usable = [n for n in images if n in frame.intrinsics and n in frame.base_from_sensor]
    if len(usable) < 2:
        return dict(images), 0
    skipped = {name for k, name in enumerate(usable) if (k + index) % 2}
    return {name: image for name, image in images.items() if name not in skipped}, len(skipped)
