"""The steps of a recipe: render data, train the stages, export, evaluate and write the model card."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multimodal_perception import __version__
from multimodal_perception.configuration import UserError
from multimodal_perception.processes import terminate_with_parent
from multimodal_perception.rig import load_rig
from multimodal_perception.training.recipe.card import write_model_cards
from multimodal_perception.training.recipe.configuration import RecipeFile
from multimodal_perception.training.recipe.steps import Step
from multimodal_perception.training.recipe.workflow import Cost, StageInputs
from multimodal_perception.training.recipe.workflows import WORKFLOWS, rig_file

# Frames of each drive and condition (day, night, unlit, fog) for the calibration of confidences.
CALIBRATION_FRAMES = 2
# Runs the arguments of an evaluation command, which writes its figures to a JSON file.
Evaluate = Callable[[Sequence[str]], None]
# Configuration keys that name a model; its card is an input of the stage.
MODEL_KEYS = ("backbones", "initial_model")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a recipe with an output folder.

    workers: processes that simulate. processes: processes that train a stage, one for each GPU.
    """

    file: RecipeFile
    out: Path
    evaluate: Evaluate
    workers: int = 1
    processes: int = 1

    def steps(self) -> list[Step]:
        """All steps in the order in which they are run. Raises UserError for a missing rig or model."""
        recipe = self.file.recipe
        training = self._training_steps()
        export = self._export_step("export", recipe.name, self._exported_parts())
        variants = [
            self._export_step(f"export/{name}", f"{recipe.name}_{name}", parts)
            for name, parts in recipe.variants.items()
        ]
        calibration = [self._calibration_step()] if recipe.calibration else []
        evaluations = [self._evaluation_step(name) for name in recipe.evaluation]
        card = Step(
            "card",
            "write the model card",
            {"notes": recipe.notes, "files": self.file.file_hashes(), "version": __version__},
            (
                "export",
                *(f"train/{name}" for name in recipe.stages),
                *(s.name for s in (*calibration, *evaluations)),
            ),
            self.model_folder,
            partial(
                write_model_cards,
                self.file,
                self.out / "export",
                self.model_folder,
                {name: self._evaluation_path(name) for name in recipe.evaluation},
                [self._stage_folder(name) for name in recipe.stages],
                self._exported_parts(),
            ),
        )
        return [*training, export, *variants, *calibration, *evaluations, card]

    def _training_steps(self) -> list[Step]:
        """The stages, each after the rendering of its data if no earlier stage uses the same data."""
        recipe = self.file.recipe
        unused = recipe.data.keys() - {stage.data for stage in recipe.stages.values()}
        if unused:
            raise UserError(f"{self.file.path}: data.{min(unused)}: is not used by any stage")
        steps: dict[str, Step] = {}
        for name, stage in recipe.stages.items():
            if f"render/{stage.data}" not in steps:
                steps[f"render/{stage.data}"] = self._render_step(stage.data)
            steps[f"train/{name}"] = self._train_step(name)
        return list(steps.values())

    @property
    def model_folder(self) -> Path:
        """Folder that contains the folders of the finished models."""
        return self.out / "models"

    def train_stage(self, name: str) -> None:
        """Train a stage in this process."""
        workflow = WORKFLOWS[self.file.recipe.network]
        workflow.train(self.stage_inputs(name), self.file.configs[name], self._stage_folder(name))

    def stage_inputs(self, name: str) -> StageInputs:
        """The inputs of a stage."""
        recipe, configs = self.file.recipe, self.file.configs
        workflow, stage = WORKFLOWS[recipe.network], recipe.stages[name]

        def weights(other: str) -> Path:
            return workflow.weights(configs[other], self._stage_folder(other))

        return dataclasses.replace(
            self._data_inputs(stage.data),
            start=[weights(other) for other in stage.initial_weights],
        )

    def _data_inputs(self, name: str) -> StageInputs:
        data = self.file.recipe.data[name]
        rig = None
        if WORKFLOWS[self.file.recipe.network].uses_rig:
            rig = rig_file(data.rig, self.file.path.parent)
        pairs = self.file.resolve(data.pairs) if data.pairs else None
        images = self.file.resolve(data.images) if data.images else None
        return StageInputs(data, self.out / "data" / name, rig, pairs, images)

    def _render_step(self, name: str) -> Step:
        recipe, inputs = self.file.recipe, self._data_inputs(name)
        workflow = WORKFLOWS[recipe.network]
        users = [n for n, stage in recipe.stages.items() if stage.data == name]
        try:
            config = workflow.render_config([self.file.configs[user] for user in users])
        except ValueError as error:
            raise UserError(f"{self.file.path}: data.{name}: {error}") from error
        values = dataclasses.asdict(inputs.data)
        for name_of_real_data in ("pairs", "images"):
            values.pop(name_of_real_data)
        if inputs.rig is not None:
            values["rig"] = workflow.rig_key(inputs.rig)
        values["second_input"] = getattr(config, "second_input", "")
        values |= workflow.render_inputs(config)
        return Step(
            f"render/{name}",
            f"simulate {len(inputs.data.seed_list())} drives",
            values,
            (),
            inputs.folder,
            partial(workflow.render, inputs, config, self.workers),
            workflow.render_cost(inputs.data),
            only_for_others=True,
        )

    def _train_step(self, name: str) -> Step:
        recipe = self.file.recipe
        stage, config = recipe.stages[name], self.file.configs[name]
        needs = [f"render/{stage.data}", *(f"train/{s}" for s in stage.initial_weights)]
        values = dataclasses.asdict(config)
        for key in ("workers", "save_every"):  # do not change the result
            values["loop"].pop(key)
        models = {key: _model_hash(values[key]) for key in MODEL_KEYS if values.get(key)}
        inputs = {"config": values, "models": models, "processes": self.processes}
        workflow = WORKFLOWS[recipe.network]
        return Step(
            f"train/{name}",
            f"{config.loop.steps} training steps" + (f" ({stage.config})" if stage.config else ""),
            {
                **inputs,
                "pairs": _file_list(self._data_inputs(stage.data).pairs),
                "images": _file_list(self._data_inputs(stage.data).images),
            },
            tuple(dict.fromkeys(needs)),
            self._stage_folder(name),
            partial(self._train, name),
            workflow.train_cost(recipe.data[stage.data], config),
        )

    def _train(self, name: str) -> None:
        if self.processes == 1:
            self.train_stage(name)
            return
        module = "multimodal_perception.training.recipe.stage_process"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(self.processes), "-m", module]
        command += [str(self.file.path), name, str(self.out)]
        parent = os.getpid()
        result = subprocess.run(
            command, preexec_fn=lambda: terminate_with_parent(parent), check=False
        )
        if result.returncode:
            raise UserError(f"train/{name}: torchrun ended with exit code {result.returncode}")

    def _exported_parts(self) -> dict[str, str]:
        """Stage by exported part."""
        recipe = self.file.recipe
        default = {WORKFLOWS[recipe.network].parts[0]: list(recipe.stages)[-1]}
        return dict(recipe.export) or default

    def _export_step(self, step_name: str, name: str, parts: dict[str, str]) -> Step:
        """The export of one model. name: of the model and its folder."""
        recipe = self.file.recipe
        arguments = {
            part: (self.file.configs[stage], self._stage_folder(stage))
            for part, stage in parts.items()
        }
        export = WORKFLOWS[recipe.network].export
        folder = self.out / ("export" if step_name == "export" else "variants")
        return Step(
            step_name,
            "write ONNX and safetensors files",
            {"name": name, "parts": parts},
            tuple(dict.fromkeys(f"train/{stage}" for stage in parts.values())),
            folder if step_name == "export" else folder / name,
            lambda: (export(arguments, folder, name), None)[1],
            Cost(60e6, 60.0),
        )

    def _calibration_step(self) -> Step:
        """Temperatures of the exported model, which are written into its card."""
        recipe, result = self.file.recipe, self.out / "calibration.json"
        seeds = recipe.calibration_seeds()

        def run() -> None:
            from multimodal_perception.training.confidence_calibration import calibrate_model

            def progress(total: int) -> tqdm[Any]:
                return tqdm(total=total, desc="calibration", unit="frame")

            model = self.out / "export" / recipe.name
            rig = load_rig(rig_file("simulation", self.file.path.parent))
            calibrate_model(model, rig, seeds, CALIBRATION_FRAMES, progress, result)

        return Step(
            "calibrate",
            f"temperatures of the confidences on {len(seeds)} simulated drives",
            {"seeds": seeds, "frames": CALIBRATION_FRAMES},
            ("export",),
            result,
            run,
            Cost(1e4, 8.0 * CALIBRATION_FRAMES * len(seeds)),
        )

    def _evaluation_step(self, name: str) -> Step:
        command, path = self.file.recipe.evaluation[name], self._evaluation_path(name)
        needs = ("export", *(f"export/{variant}" for variant in self.file.recipe.variants))
        needs += ("calibrate",) if self.file.recipe.calibration else ()
        model = self.out / "export" / self.file.recipe.name

        def run() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}")
            words = shlex.split(
                command.replace("{model}", shlex.quote(str(model))).replace(
                    "{out}", shlex.quote(str(self.out))
                )
            )
            self.evaluate([*words, "--json", str(unfinished)])
            os.replace(unfinished, path)

        return Step(
            f"evaluate/{name}", f"evaluate {command}", {"command": command}, needs, path, run
        )

    def _stage_folder(self, name: str) -> Path:
        return self.out / "stages" / name

    def _evaluation_path(self, name: str) -> Path:
        return self.out / "evaluation" / f"{name}.json"


def _file_list(folder: Path | None) -> list[str]:
    """Names and sizes of the files in a folder."""
    if folder is None:
        return []
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [f"{p.relative_to(folder)} {p.stat().st_size}" for p in files]


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _model_hash(name: str) -> str:
    """Hash of the card of a model, which contains the hash of its weights. Raises UserError."""
    from multimodal_perception.runtime.card import card_path

    if name == "imagenet":
        return name
    try:
        return _file_hash(card_path(name))
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
