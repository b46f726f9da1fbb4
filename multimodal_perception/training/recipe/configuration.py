"""The recipe file: data, stages, export and evaluation of a trained network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from multimodal_perception.configuration import ConfigurationError, UserError, build, load
from multimodal_perception.files import user_path
from multimodal_perception.resources import share_path

Network = Literal[
    "bev_fusion",
    "segmentation",
    "image_detector",
    "near_field",
    "image_fusion",
    "sensor_opinions",
]
RECIPE = "recipe.yaml"
NAME = re.compile(r"[a-z0-9_]+")
SEEDS = re.compile(r"(\d+)(?:\.\.(\d+))?")
# Networks whose confidences a recipe can calibrate; detectors of 3D boxes have a stage for it.
CALIBRATED_NETWORKS = ("segmentation", "image_detector")
# Seeds from here on are reserved for evaluation.
FIRST_EVALUATION_SEED = 10_000


@dataclass(frozen=True)
class DataConfig:
    """Simulated drives that one or more stages are trained on.

    Attributes:
        seeds: Seeds of the drives, single ones or ranges A..B with both ends included, below 10000. Add
            seeds for more training data; use seeds that no other stage has for a stage that must be
            trained on new data.
        rig: Name of a shipped rig, or a rig file relative to the recipe. Use your own rig to train for
            your sensors. bev_fusion and sensor_opinions use it in every fifth drive and random rigs in
            the others; segmentation and image_detector ignore it.
        frames: Frames of each drive that are stored; ignored by near_field. Increase it for more data,
            although frames of the same drive resemble each other.
        frame_interval: Number of sweeps from one stored frame to the next, for bev_fusion,
            sensor_opinions and image_fusion. Increase it for frames that differ more; it has little
            effect on the simulation time.
        pairs: Folder of real visible and thermal images for image_fusion, relative to the recipe. Set
            it when you have such images, otherwise leave it empty.
        images: Folder of labelled real images for segmentation, image_detector and image_fusion,
            relative to the recipe, as `multimodal-perception train label-images` writes it. Set it when
            you have images of real cameras, otherwise leave it empty.
    """

    seeds: tuple[str, ...] = ("0..9",)
    rig: str = "simulation"
    frames: int = field(default=18, metadata={"min": 1, "max": 10_000})
    frame_interval: int = field(default=15, metadata={"min": 1, "max": 10_000})
    pairs: str = ""
    images: str = ""

    def __post_init__(self) -> None:
        self.seed_list()

    def seed_list(self) -> list[int]:
        """All seeds in order. Raises ValueError."""
        seeds: dict[int, None] = {}
        for text in self.seeds:
            match = SEEDS.fullmatch(text)
            if match is None:
                raise ValueError(f"seeds: expected N or A..B, got {text!r}")
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < FIRST_EVALUATION_SEED:
                raise ValueError(
                    f"seeds: {text}: allowed: 0 <= A <= B < {FIRST_EVALUATION_SEED}; larger seeds "
                    "are reserved for evaluation"
                )
            seeds |= dict.fromkeys(range(first, last + 1))
        if not seeds:
            raise ValueError("seeds: must not be empty")
        return list(seeds)


@dataclass(frozen=True)
class StageConfig:
    """One training run.

    Attributes:
        config: Configuration file of the training, relative to the recipe. Use one file for each stage,
            or leave it empty and set `settings`.
        settings: Configuration of the training, with the keys of a configuration file. Use it instead of
            `config` to have all stages in the recipe file; set only one of them.
        settings_from: Earlier stage whose `settings` are used as well; those of this stage replace them
            key by key. Use it for stages that differ in a few settings, such as the rows of an ablation.
        data: Name of the data that the stage is trained on. Choose data that the earlier stages were
            not trained on when the stage corrects their errors.
        initial_weights: Earlier stages whose weights are the initial weights; later ones override
            earlier ones. Set it to continue a training run or to add a part to a trained network.
    """

    data: str
    config: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    settings_from: str = ""
    initial_weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A complete training of one network.

    Attributes:
        name: Name of the model and of its folder. Choose another name than those of the shipped models
            to keep both.
        network: Network that is trained. Set it to one of the allowed values; the keys of the stages'
            configuration files depend on it.
        data: Simulated data by name. Use several when stages are trained on different drives.
        stages: Training runs by name, in the order in which they are run. Add a stage to train a part of
            the network on other data or with other settings.
        export: Stage of each exported part: stage1, images, refinement and calibration for bev_fusion,
            model for the other networks. Leave it empty to export the last stage of the networks with a
            single part.
        variants: Further models by name, with the stage of each exported part, as in `export`; they are
            written to {out}/variants/NAME_VARIANT for comparisons. Use them for an ablation, whose rows
            are stages with other settings.
        evaluation: Commands by name: the arguments of `multimodal-perception evaluate`, in which
            {model} is the folder of the model and {out} that of the recipe. Their figures are written
            into the model card. Change the seeds to evaluate on other drives.
        calibration: Seeds of simulated drives on which the confidences of the exported segmentation
            network or image detector are calibrated (temperature scaling), single ones or ranges A..B
            below 10000; empty for no calibration. Set it to drives that no stage is trained on.
        notes: Text for the model card. Use it for information that the figures do not contain, such as
            limitations.
    """

    name: str
    network: Network
    data: dict[str, DataConfig]
    stages: dict[str, StageConfig]
    export: dict[str, str] = field(default_factory=dict)
    variants: dict[str, dict[str, str]] = field(default_factory=dict)
    evaluation: dict[str, str] = field(default_factory=dict)
    calibration: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages: must name at least one stage")
        if self.calibration and self.network not in CALIBRATED_NETWORKS:
            allowed = " and ".join(CALIBRATED_NETWORKS)
            raise ValueError(f"calibration: allowed for {allowed}; the network is {self.network}")
        used = {seed for data in self.data.values() for seed in data.seed_list()}
        common = used & set(self.calibration_seeds())
        if common:
            raise ValueError(f"calibration: seed {min(common)} is used for the training")
        names = [("name", self.name)]
        names += [
            (f"{key}.{n}", n)
            for key in ("data", "stages", "variants", "evaluation")
            for n in getattr(self, key)
        ]
        for key, name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"{key}: only lower-case letters, digits and _ are allowed")
        earlier: list[str] = []
        for name, stage in self.stages.items():
            if stage.data not in self.data:
                raise ValueError(f"stages.{name}.data: {_allowed(self.data, stage.data)}")
            if bool(stage.config) == bool(stage.settings or stage.settings_from):
                raise ValueError(f"stages.{name}: needs either config or settings")
            for key, other in [
                *(("initial_weights", s) for s in stage.initial_weights),
                *(("settings_from", s) for s in [stage.settings_from] if s),
            ]:
                if other not in earlier:
                    raise ValueError(f"stages.{name}.{key}: {_allowed(earlier, other)}")
            earlier.append(name)
        models = {"export": self.export}
        models |= {f"variants.{name}": parts for name, parts in self.variants.items()}
        for key, parts in models.items():
            for part, stage_name in parts.items():
                if stage_name not in self.stages:
                    raise ValueError(f"{key}.{part}: {_allowed(self.stages, stage_name)}")

    def calibration_seeds(self) -> list[int]:
        """Seeds of the drives for the calibration of the confidences. Raises ValueError."""
        return DataConfig(seeds=self.calibration).seed_list() if self.calibration else []

    def merged_settings(self, name: str) -> dict[str, Any]:
        """The settings of a stage with those of the stages that it refers to."""
        stage = self.stages[name]
        base = self.merged_settings(stage.settings_from) if stage.settings_from else {}
        return {**base, **stage.settings}


@dataclass(frozen=True)
class RecipeFile:
    """A recipe, the configurations of its stages and where they were read.

    configs: by stage, objects of the network's configuration class.
    """

    path: Path
    recipe: Recipe
    configs: Mapping[str, Any]

    def resolve(self, name: str) -> Path:
        """A path in the recipe, which is relative to the recipe file."""
        return self.path.parent / user_path(name)

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of the recipe file and of the configuration files of its stages, by name."""
        configs = [s.config for s in self.recipe.stages.values() if s.config]
        files = [self.path, *(self.resolve(config) for config in configs)]
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load_recipe(name_or_path: str | Path, evaluations: Collection[str] | None = None) -> RecipeFile:
    """Read a recipe and the configurations of its stages.

    name_or_path: a file, a folder with recipe.yaml, or the name of a shipped recipe. evaluations:
    allowed evaluation commands. Raises UserError that names file and key.
    """
    from multimodal_perception.training.recipe.workflows import WORKFLOWS

    path = _recipe_path(name_or_path)
    recipe = load(Recipe, path)
    workflow = WORKFLOWS[recipe.network]
    configs: dict[str, Any] = {}
    for name, stage in recipe.stages.items():
        try:
            if stage.config:
                configs[name] = load(workflow.config, path.parent / user_path(stage.config))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: stages.{name}.config: {error}") from error
        if not stage.config:
            settings = recipe.merged_settings(name)
            configs[name] = build(workflow.config, settings, str(path), f"stages.{name}.settings")
    for name, command in recipe.evaluation.items():
        task = command.partition(" ")[0]
        if evaluations is not None and task not in evaluations:
            raise ConfigurationError(
                f"{path}: evaluation.{name}: {_allowed(sorted(evaluations), task)}"
            )
    try:
        workflow.check(recipe, configs)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return RecipeFile(path, recipe, configs)


def _recipe_path(name_or_path: str | Path) -> Path:
    path = user_path(name_or_path)
    if path.is_dir():
        return path / RECIPE
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    try:
        return share_path("config", "training", str(path), RECIPE)
    except FileNotFoundError as error:
        raise UserError(f"{path}: neither a recipe file nor a shipped recipe") from error


def _allowed(names: Collection[str], name: str) -> str:
    return f"allowed: {', '.join(names) or 'nothing'}; got {name!r}"
