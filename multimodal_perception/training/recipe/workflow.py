"""The interface between a recipe and the training of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from multimodal_perception.rig import Rig, load_rig
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.training.recipe.configuration import DataConfig, Recipe


@dataclass(frozen=True)
class Cost:
    """Estimate of disk space and time, on a CPU with two cores."""

    bytes: float
    seconds: float


@dataclass(frozen=True)
class StageInputs:
    """Paths of a stage. data: its drives. pairs, images: folders of real images. start: weights of
    earlier stages."""

    data: DataConfig
    folder: Path
    rig: Path | None
    pairs: Path | None
    images: Path | None = None
    start: Sequence[Path] = ()

    def load_rig(self) -> Rig:
        assert self.rig is not None
        return load_rig(self.rig)


class Workflow(Protocol):
    """The training of one network.

    config: configuration class of a stage. uses_rig: whether the rig of the data is used. parts:
    exported parts, of which the first is required.
    """

    config: type[Any]
    uses_rig: bool
    parts: tuple[str, ...]

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        """Raise ValueError naming the key for a recipe that cannot be run."""

    def render(self, inputs: StageInputs, config: Any, workers: int) -> None:
        """Simulate the data; existing files are kept. config: see render_config."""

    def render_config(self, configs: Sequence[Any]) -> Any:
        """The configuration with which data is rendered that several stages use.

        configs: of all these stages. The other stages use the same data. Raises ValueError for stages
        that need different data.
        """
        return configs[0]

    def render_inputs(self, config: Any) -> dict[str, Any]:
        """Values of the configuration of a stage that define the result of `render`."""
        return {}

    def rig_key(self, path: Path) -> str:
        """A hash that changes if a change of the rig changes the data."""
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def describe_rigs(self, data: DataConfig) -> str:
        """The rigs of the drives in words."""
        return f"rig {data.rig}"

    def render_cost(self, data: DataConfig) -> Cost:
        """Estimate for the data."""

    def train(self, inputs: StageInputs, config: Any, out: Path) -> None:
        """Train a stage, or resume it."""

    def train_cost(self, data: DataConfig, config: Any) -> Cost:
        """Estimate for a stage."""

    def weights(self, config: Any, out: Path) -> Path:
        """The weights that train() writes."""

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        """Write model folders in `out`. parts: configuration and output folder of the stage by part."""


def check_parts(recipe: Recipe, parts: tuple[str, ...]) -> None:
    """Raise ValueError for an exported part that the network does not have."""
    for part in recipe.export:
        if part not in parts:
            raise ValueError(f"export: allowed: {', '.join(parts)}; got {part!r}")
