"""Rigs for simulated drives: shipped rig files, rig files by path, and random rigs."""

from __future__ import annotations

from multimodal_perception.configuration import UserError
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.simulation.random_rigs import random_rig

# Kinds of random rigs; with the second, LiDARs and ultrasonic sensors have random rates, too.
RANDOM, RANDOM_RATES = "random", "random_rates"
RIG_HELP = (
    "rig file, name of a shipped rig (nuscenes_like, kitti_like, pandaset_like, solid_state_front, "
    "amr_16, simulation, ...), or random:SEED for a random rig (random_rates:SEED: also with random "
    "rates of LiDARs and ultrasonic sensors)"
)


def open_rig(name: str) -> Rig:
    """The rig of a file, of a shipped name, of "random:SEED" or of "random_rates:SEED".

    Raises UserError for an unknown name or a seed that is not an integer, ConfigurationError for an
    invalid file.
    """
    kind, colon, seed = name.partition(":")
    if kind not in (RANDOM, RANDOM_RATES) or not colon:
        return load_rig(resolve_rig_path(name))
    if not seed.isdecimal() or int(seed) >= 1 << 63:
        raise UserError(f"rig {name!r}: expected {kind}:SEED with a seed of 0 to 2^63 - 1")
    return random_rig(int(seed), kind == RANDOM_RATES)
