"""Simulated drives as datasets, from a specification in one line of text."""

from __future__ import annotations

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile, check_profile
from multimodal_perception.simulation.rigs import open_rig
from multimodal_perception.simulation.sensors.conditions import parse_fault
from multimodal_perception.simulation.simulation import Simulation

PREFIX = "simulated"
SYNTAX = (
    "simulated:SCENARIO[,seed=N][,frames=K][,rig=RIG][,profile=PROFILE][,fault=FAULT]..."
    "[,CONDITION[=VALUE]]...[,sensor_rates]"
)
DEFAULT_SCENARIO, DEFAULT_RIG, DEFAULT_FRAMES = "urban_street", "simulation", 20


def open_simulation(spec: str, rig: Rig | None = None) -> Simulation:
    """Open the drive of a line such as "simulated:urban_street,seed=3,frames=20,night,fog=80".

    rig: rig of the drive, unless the line names another one. Raises DatasetError for a line that does
    not follow SYNTAX, UserError for an unknown scenario, rig, condition or fault.
    """
    scenario, *entries = spec.removeprefix(PREFIX).removeprefix(":").split(",")
    integers = {"seed": 0, "frames": DEFAULT_FRAMES}
    conditions, faults = [], []
    profile: Profile = "basic"
    sensor_rates = False
    for entry in entries:
        key, _, value = entry.partition("=")
        if key in integers:
            try:
                integers[key] = int(value)
            except ValueError:
                raise DatasetError(f"{spec}: {key}: {value!r} is not an integer") from None
        elif key == "rig":
            rig = open_rig(value)
        elif key == "profile":
            profile = check_profile(value)
        elif key == "fault":
            faults.append(parse_fault(value))
        elif entry == "sensor_rates":
            sensor_rates = True
        elif entry:
            conditions.append(entry)
        else:
            raise DatasetError(f"{spec}: expected {SYNTAX}")
    if rig is None:
        rig = open_rig(DEFAULT_RIG)
    return Simulation(
        scenario or DEFAULT_SCENARIO,
        rig,
        integers["seed"],
        integers["frames"],
        conditions,
        faults,
        profile=profile,
        sensor_rates=sensor_rates,
    )
