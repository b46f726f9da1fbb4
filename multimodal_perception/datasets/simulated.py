"""Simulated drives as datasets, made on the spot from one line of text."""

from __future__ import annotations

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.rig import Rig, load_rig, rig_path
from multimodal_perception.simulation.sensors.conditions import parse_fault
from multimodal_perception.simulation.simulation import Simulation

PREFIX = "simulated"
SYNTAX = "simulated:SCENARIO[,seed=N][,frames=K][,rig=RIG][,fault=FAULT][,CONDITION[=VALUE]]"
DEFAULT_SCENARIO, DEFAULT_RIG, DEFAULT_FRAMES = "urban_street", "simulation", 20


def open_simulation(spec: str, rig: Rig | None = None) -> Simulation:
    """A drive by a line such as "simulated:urban_street,seed=3,frames=20,night,fog=80".

    Raises DatasetError for a line that does not follow SYNTAX, UserError for what it names and is not.
    """
    scenario, *words = spec.removeprefix(PREFIX).removeprefix(":").split(",")
    numbers = {"seed": 0, "frames": DEFAULT_FRAMES}
    conditions, faults = [], []
    for word in words:
        key, _, value = word.partition("=")
        if key in numbers:
            try:
                numbers[key] = int(value)
            except ValueError:
                raise DatasetError(f"{spec}: {key}: {value!r} is no whole number") from None
        elif key == "rig":
            rig = load_rig(rig_path(value))
        elif key == "fault":
            faults.append(parse_fault(value))
        elif word:
            conditions.append(word)
        else:
            raise DatasetError(f"{spec}: expected {SYNTAX}")
    if rig is None:
        rig = load_rig(rig_path(DEFAULT_RIG))
    return Simulation(
        scenario or DEFAULT_SCENARIO, rig, numbers["seed"], numbers["frames"], conditions, faults
    )
