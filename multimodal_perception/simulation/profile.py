"""The two profiles of the simulator: which world, traffic and sensor effects a drive has."""

from __future__ import annotations

from typing import Literal, get_args

from multimodal_perception.configuration import UserError

Profile = Literal["basic", "realistic"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
PROFILE_HELP = (
    "basic: straight, level roads and undisturbed LiDAR returns, as in version 0.2; realistic: curved "
    "and sloping roads, queues, turning traffic, ten classes, and surfaces without LiDAR returns"
)


def check_profile(name: str) -> Profile:
    """The profile of this name. Raises UserError."""
    for profile in PROFILES:
        if name == profile:
            return profile
    raise UserError(f"profile {name!r}: allowed: {', '.join(PROFILES)}")
