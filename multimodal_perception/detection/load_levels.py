"""Load levels at which the fusion detector reduces its computing time; see stages.LoadAdaptive."""

from __future__ import annotations

FULL, HALF_IMAGES, NO_REFINEMENT, GEOMETRIC = "full", "half_images", "no_refinement", "geometric"


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
