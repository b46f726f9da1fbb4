"""The training of the sensors' opinions by a recipe, for a finished BEV fusion detector."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.training.recipe.configuration import DataConfig, Recipe
from multimodal_perception.training.recipe.workflow import (
    Cost,
    StageInputs,
    Workflow,
    check_parts,
)
from multimodal_perception.training.sensor_opinions.configuration import SensorOpinionsTraining

# Settings that change the features of the boxes.
RENDERED = ("min_score", "false_boxes", "fault_probability")
# On two cores of a CPU: a frame with its past sweeps and the detector, and a training step.
FRAME_SECONDS, STEP_SECONDS = 4.5, 0.03
FRAME_BYTES = 80e3


class SensorOpinionsWorkflow(Workflow):
    """A single stage. The data are the features of the detector's boxes in simulated drives."""

    config: type[Any] = SensorOpinionsTraining
    uses_rig: bool = True
    parts: tuple[str, ...] = ("model",)

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        check_parts(recipe, self.parts)
        if len(recipe.stages) != 1:
            raise ValueError(f"stages: one stage is allowed for {recipe.network}")

    def describe_rigs(self, data: DataConfig) -> str:
        from multimodal_perception.training.bev_fusion.drives import describe_rigs

        return describe_rigs(data.rig)

    def render(self, inputs: StageInputs, config: SensorOpinionsTraining, workers: int) -> None:
        from multimodal_perception.training.sensor_opinions.rendering import render_features

        d = inputs.data
        render_features(
            d.seed_list(),
            inputs.load_rig(),
            d.frames,
            d.frame_interval,
            config,
            inputs.folder,
            workers,
        )

    def render_inputs(self, config: SensorOpinionsTraining) -> dict[str, Any]:
        """Raises UserError for a detector that is not a BEV fusion detector."""
        values = {name: getattr(config, name) for name in RENDERED}
        return {
            **values,
            "painting": dataclasses.asdict(config.painting),
            "seed": config.loop.seed,
            "detector": _detector_hashes(config.detector),
        }

    def render_cost(self, data: DataConfig) -> Cost:
        frames = data.frames * len(data.seed_list())
        return Cost(FRAME_BYTES * frames, FRAME_SECONDS * frames)

    def train(self, inputs: StageInputs, config: SensorOpinionsTraining, out: Path) -> None:
        from multimodal_perception.training.sensor_opinions.train import train_sensor_opinions

        train_sensor_opinions(config, inputs.folder, out)

    def train_cost(self, data: DataConfig, config: SensorOpinionsTraining) -> Cost:
        return Cost(2e6, STEP_SECONDS * config.loop.steps)

    def weights(self, config: SensorOpinionsTraining, out: Path) -> Path:
        from multimodal_perception.training.sensor_opinions.train import WEIGHTS

        return out / WEIGHTS

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        from multimodal_perception.detection.bev_fusion.model_cards import read_detector_cards
        from multimodal_perception.detection.bev_fusion.opinion_features import (
            OpinionNetworkConfig,
        )
        from multimodal_perception.networks.sensor_opinions import SensorOpinions
        from multimodal_perception.training.checkpoint import load_weights
        from multimodal_perception.training.sensor_opinions.export import export_sensor_opinions
        from multimodal_perception.training.sensor_opinions.train import FIGURES

        config, folder = parts["model"]
        cards = read_detector_cards(config.detector)
        network = SensorOpinions(
            OpinionNetworkConfig(cards.network.channels, config.hidden, config.dropout)
        )
        load_weights(network, self.weights(config, folder))
        figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        validation = {"validation": figures} if figures else {}
        return [export_sensor_opinions(network, cards, out / name, config.reliability, validation)]


def _detector_hashes(detector: str) -> list[str]:
    """SHA-256 of the files of all networks of a detector. Raises UserError."""
    from multimodal_perception.detection.bev_fusion.model_cards import read_detector_cards

    cards = read_detector_cards(detector)
    parts = [cards.stage1, *cards.images.values(), *filter(None, [cards.refinement])]
    files = [file for card in parts for file in (card.onnx, card.weights) if file is not None]
    return [file.sha256 for file in files]
