"""How each network is trained: the functions that render its data, train a stage and export the model.

They import the training code when they are called, because a recipe is also read without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.files import user_path
from multimodal_perception.rig import resolve_rig_path
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.training.bev_fusion.workflow import BevFusionWorkflow
from multimodal_perception.training.image_detector.train import ImageDetectorTraining
from multimodal_perception.training.image_fusion.train import ImageFusionTraining
from multimodal_perception.training.near_field.train import NearFieldTraining
from multimodal_perception.training.recipe.configuration import DataConfig, Network, Recipe
from multimodal_perception.training.recipe.workflow import (
    Cost,
    StageInputs,
    Workflow,
    check_parts,
)
from multimodal_perception.training.segmentation.train import SegmentationTraining
from multimodal_perception.training.sensor_opinions.workflow import SensorOpinionsWorkflow


class SegmentationWorkflow(Workflow):
    """Segmentation of camera and thermal images."""

    config: type[Any] = SegmentationTraining
    uses_rig: bool = False
    parts: tuple[str, ...] = ("model",)

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        check_parts(recipe, self.parts)

    def render_config(self, configs: Sequence[Any]) -> Any:
        """Drives with a LiDAR have thermal images too."""
        return next((c for c in configs if c.second_input == "lidar"), configs[0])

    def render(self, inputs: StageInputs, config: Any, workers: int) -> None:
        _render_image_drives(inputs, config.second_input == "lidar", workers)

    def render_cost(self, data: DataConfig) -> Cost:
        frames = data.frames * len(data.seed_list())
        return Cost(0.9e6 * frames, 0.6 * frames)

    def train(self, inputs: StageInputs, config: Any, out: Path) -> None:
        from multimodal_perception.training.segmentation.train import train_segmentation

        drives = sorted(inputs.folder.glob("[a-z]*.npz"))
        start = inputs.start[-1] if inputs.start else None
        train_segmentation(config, drives, out, start, images=inputs.images)

    def train_cost(self, data: DataConfig, config: Any) -> Cost:
        pixels = config.crop_size[0] * config.crop_size[1] * config.loop.batch_size
        return Cost(80e6, 1.5e-5 * pixels * config.loop.steps)

    def weights(self, config: Any, out: Path) -> Path:
        return out / "segmentation.safetensors"

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        from multimodal_perception.networks.rgb_thermal_segmentation import RgbThermalSegmentation
        from multimodal_perception.training.checkpoint import load_weights
        from multimodal_perception.training.segmentation.export import export_model
        from multimodal_perception.training.segmentation.train import CLASSES

        config, folder = parts["model"]
        network = RgbThermalSegmentation(CLASSES, config.fusion)
        load_weights(network, self.weights(config, folder))
        return [export_model(network, out / name, None, config.second_input)]


class ImageDetectorWorkflow(Workflow):
    """Detector of boxes in camera and thermal images."""

    config: type[Any] = ImageDetectorTraining
    uses_rig: bool = False
    parts: tuple[str, ...] = ("model",)

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        check_parts(recipe, self.parts)

    def render(self, inputs: StageInputs, config: Any, workers: int) -> None:
        _render_image_drives(inputs, False, workers)

    def render_cost(self, data: DataConfig) -> Cost:
        return SegmentationWorkflow().render_cost(data)

    def train(self, inputs: StageInputs, config: Any, out: Path) -> None:
        from multimodal_perception.training.image_detector.train import train_image_detector

        drives = sorted(inputs.folder.glob("[a-z]*.npz"))
        start = inputs.start[-1] if inputs.start else None
        # The features belong to the backbones of this stage.
        train_image_detector(
            config,
            drives,
            out / "features",
            out,
            start,
            lambda paths: tqdm(paths, "features"),
            inputs.images,
        )

    def train_cost(self, data: DataConfig, config: Any) -> Cost:
        views = data.frames * len(data.seed_list()) * (1 + config.features.crops_per_view)
        return Cost(0.9e6 * views + 60e6, 0.15 * views + 1.5 * config.loop.steps)

    def weights(self, config: Any, out: Path) -> Path:
        return out / "image_detector.safetensors"

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        from multimodal_perception.training.image_detector.export import export_image_detector

        config, folder = parts["model"]
        return [export_image_detector(self.weights(config, folder), out / name, None)]


class NearFieldWorkflow(Workflow):
    """Near-field network of fisheye cameras and ultrasonic sensors."""

    config: type[Any] = NearFieldTraining
    uses_rig: bool = True
    parts: tuple[str, ...] = ("model",)

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        check_parts(recipe, self.parts)

    def render(self, inputs: StageInputs, config: Any, workers: int) -> None:
        from multimodal_perception.training.near_field.dataset import simulate_drives

        simulate_drives(inputs.folder, inputs.load_rig(), inputs.data.seed_list(), workers)

    def render_cost(self, data: DataConfig) -> Cost:
        drives = len(data.seed_list())
        return Cost(1.4e6 * drives, 5.0 * drives)

    def train(self, inputs: StageInputs, config: Any, out: Path) -> None:
        from multimodal_perception.training.distributed import join_process_group
        from multimodal_perception.training.near_field.dataset import plan_drives
        from multimodal_perception.training.near_field.export import export_near_field
        from multimodal_perception.training.near_field.train import train_near_field

        shards = [inputs.folder / f"{d.name}.npz" for d in plan_drives(inputs.data.seed_list())]
        start = inputs.start[-1] if inputs.start else None
        network = train_near_field(config, shards, inputs.load_rig(), out, start)
        if join_process_group()[0]:
            return
        # The card contains the factor of the evidence, which is calibrated after the training.
        export_near_field(network, out / "model", None, {})

    def train_cost(self, data: DataConfig, config: Any) -> Cost:
        return Cost(30e6, len(data.seed_list()) + 0.15 * config.loop.batch_size * config.loop.steps)

    def weights(self, config: Any, out: Path) -> Path:
        return out / "near_field.safetensors"

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        from multimodal_perception.runtime.card import load_card
        from multimodal_perception.training.near_field.export import (
            export_near_field,
            load_near_field,
        )

        trained = load_near_field(load_card(parts["model"][1] / "model"))
        return [export_near_field(trained, out / name, None, {})]


class ImageFusionWorkflow(Workflow):
    """Fusion of visible and thermal images."""

    config: type[Any] = ImageFusionTraining
    uses_rig: bool = True
    parts: tuple[str, ...] = ("model",)

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        check_parts(recipe, self.parts)

    def render(self, inputs: StageInputs, config: Any, workers: int) -> None:
        from multimodal_perception.training.image_fusion.rendering import render_pairs

        d, rig = inputs.data, inputs.load_rig()
        render_pairs(inputs.folder, rig, d.seed_list(), d.frames, d.frame_interval, workers)

    def render_cost(self, data: DataConfig) -> Cost:
        frames = data.frames * len(data.seed_list())
        return Cost(0.6e6 * frames, 0.6 * frames)

    def train(self, inputs: StageInputs, config: Any, out: Path) -> None:
        from multimodal_perception.training.image_fusion.synthetic_thermal import labelled_samples
        from multimodal_perception.training.image_fusion.train import (
            real_samples,
            simulated_samples,
            train_image_fusion,
        )

        real = [] if inputs.pairs is None else real_samples(inputs.pairs, tqdm)
        if inputs.images is not None:
            real += labelled_samples(inputs.images, config.loop.seed)
        simulated = simulated_samples(
            [inputs.folder / f"{seed:06d}" for seed in inputs.data.seed_list()]
        )
        start = inputs.start[-1] if inputs.start else None
        train_image_fusion(config, real, simulated, out, start)

    def train_cost(self, data: DataConfig, config: Any) -> Cost:
        pixels = config.crop_size**2 * config.loop.batch_size
        return Cost(5e6, 2e-6 * pixels * config.loop.steps)

    def weights(self, config: Any, out: Path) -> Path:
        return out / "image_fusion.safetensors"

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        from multimodal_perception.networks.moe_fusion import FusedOnly, MoEFusion
        from multimodal_perception.training.checkpoint import load_weights
        from multimodal_perception.training.image_fusion.export import export_model

        config, folder = parts["model"]
        network = MoEFusion()
        load_weights(FusedOnly(network), self.weights(config, folder))
        return [export_model(network, out / name, None)]


WORKFLOWS: dict[Network, Workflow] = {
    "bev_fusion": BevFusionWorkflow(),
    "segmentation": SegmentationWorkflow(),
    "image_detector": ImageDetectorWorkflow(),
    "near_field": NearFieldWorkflow(),
    "image_fusion": ImageFusionWorkflow(),
    "sensor_opinions": SensorOpinionsWorkflow(),
}


def rig_file(name: str, recipe_folder: Path) -> Path:
    """The file of a rig: relative to the recipe, or of a shipped rig. Raises UserError."""
    beside = recipe_folder / user_path(name)
    path = beside if beside.is_file() else resolve_rig_path(name)
    if not path.is_file():
        raise UserError(f"rig {name}: no such file or shipped rig")
    return path


def _render_image_drives(inputs: StageInputs, lidar: bool, workers: int) -> None:
    from multimodal_perception.training.segmentation.rendering import render_drives

    render_drives(
        inputs.folder,
        inputs.data.seed_list(),
        workers,
        lidar,
        lambda seeds: tqdm(seeds, "drives", unit="drive"),
        inputs.data.frames,
    )
