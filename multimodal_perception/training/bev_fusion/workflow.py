"""The training of the BEV fusion detector by a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multimodal_perception.rig import load_rig
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining
from multimodal_perception.training.bev_fusion.stage_weights import WEIGHTS, encoder_file
from multimodal_perception.training.recipe.configuration import DataConfig, Recipe
from multimodal_perception.training.recipe.workflow import Cost, StageInputs, Workflow

# Stages whose weights each stage needs, see StageConfig.initial_weights. lidar and fusion write the same
# file; that of the later stage is used.
NEEDS = {
    "image_encoder": (),
    "lidar": (),
    "fusion": ("image_encoder",),
    "refinement": ("image_encoder", "fusion"),
    "calibration": ("image_encoder", "fusion", "refinement"),
}
# Stage of each exported part.
PART_STAGES = {
    "stage1": ("lidar", "fusion"),
    "images": ("image_encoder",),
    "refinement": ("refinement", "calibration"),
    "calibration": ("calibration",),
}
# Fields of the network's configuration that change the samples.
RENDERED = ("past_sweeps", "camera_size", "thermal_size")
# Seconds of one sample on two cores of a CPU with bfloat16, and of the image features of a frame.
SECONDS = {"image_encoder": 0.1, "lidar": 0.07, "fusion": 0.11, "refinement": 0.12}
CALIBRATION_SECONDS, FEATURE_SECONDS = 1.5, 0.15
# Fields of a rig's sensors that the simulator uses.
SIMULATED_KEYS = (
    "modality", "extrinsics", "intrinsics", "rate_hz", "time_offset_s", "limits",
    "counts_to_kelvin", "simulation",
)  # fmt: skip


class BevFusionWorkflow(Workflow):
    """The BEV fusion detector; its stages are those of BevFusionTraining.stage."""

    config: type[Any] = BevFusionTraining
    uses_rig: bool = True
    parts: tuple[str, ...] = ("stage1", "images", "refinement", "calibration")

    def check(self, recipe: Recipe, configs: Mapping[str, Any]) -> None:
        for name, stage in recipe.stages.items():
            config = configs[name]
            earlier = {configs[other].stage for other in stage.initial_weights}
            for needed in NEEDS[config.stage]:
                if needed not in earlier and not (needed == "fusion" and "lidar" in earlier):
                    raise ValueError(
                        f"stages.{name}.initial_weights: a stage {config.stage} needs the weights of "
                        f"a stage {needed}"
                    )
        models = {"export": recipe.export}
        models |= {f"variants.{name}": parts for name, parts in recipe.variants.items()}
        for key, parts in models.items():
            if "stage1" not in parts:
                raise ValueError(f"{key}.stage1: missing")
            for part, exported in parts.items():
                if part not in self.parts:
                    raise ValueError(f"{key}: allowed: {', '.join(self.parts)}; got {part!r}")
                kind = configs[exported].stage
                if kind not in PART_STAGES[part]:
                    raise ValueError(
                        f"{key}.{part}: {exported} is a stage {kind}; expected "
                        f"{' or '.join(PART_STAGES[part])}"
                    )

    def render_config(self, configs: Sequence[BevFusionTraining]) -> BevFusionTraining:
        """The image networks do not use the points of data that they share with other stages."""
        config = next((c for c in configs if c.stage != "image_encoder"), configs[0])
        for key in RENDERED:
            if any(getattr(c.network, key) != getattr(config.network, key) for c in configs):
                raise ValueError(f"its stages have different values of network.{key}")
        return config

    def describe_rigs(self, data: DataConfig) -> str:
        from multimodal_perception.training.bev_fusion.drives import describe_rigs

        return describe_rigs(data.rig)

    def render(self, inputs: StageInputs, config: BevFusionTraining, workers: int) -> None:
        from multimodal_perception.training.bev_fusion.drives import Rendering, render_drives

        d, lidar = inputs.data, config.stage != "image_encoder"
        rendering = Rendering(inputs.load_rig(), d.frames, d.frame_interval, config.network, lidar)
        render_drives(d.seed_list(), rendering, inputs.folder, workers)

    def render_inputs(self, config: BevFusionTraining) -> dict[str, Any]:
        c = config.network
        return {
            "past_sweeps": c.past_sweeps,
            "image_sizes": [*c.camera_size, *c.thermal_size],
            "lidar": config.stage != "image_encoder",
        }

    def rig_key(self, path: Path) -> str:
        """A hash of what the simulator uses of the rig: other topics or frame names change no sample."""
        rig = load_rig(path)
        sensors = {
            name: {key: getattr(sensor, key) for key in SIMULATED_KEYS}
            for name, sensor in rig.sensors.items()
        }
        content = {"sensors": sensors, "footprint": rig.vehicle_footprint, "ground_z": rig.ground_z}
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def render_cost(self, data: DataConfig) -> Cost:
        frames = data.frames * len(data.seed_list())
        return Cost(3.6e6 * frames, 0.8 * frames)  # samples and their image features

    def train(self, inputs: StageInputs, config: BevFusionTraining, out: Path) -> None:
        from multimodal_perception.training.bev_fusion.stages import train_stage

        train_stage(config, inputs.folder, out, inputs.start)

    def train_cost(self, data: DataConfig, config: BevFusionTraining) -> Cost:
        frames = data.frames * len(data.seed_list())
        if config.stage == "calibration":
            return Cost(10e6, CALIBRATION_SECONDS * min(config.loop.steps, frames))
        features = 0.0 if config.stage in ("image_encoder", "lidar") else FEATURE_SECONDS * frames
        samples = config.loop.batch_size * config.loop.steps
        return Cost(80e6, SECONDS[config.stage] * samples + features)

    def weights(self, config: BevFusionTraining, out: Path) -> Path:
        return out / WEIGHTS[config.stage]

    def export(
        self, parts: Mapping[str, tuple[Any, Path]], out: Path, name: str
    ) -> list[ModelCard]:
        from multimodal_perception.training.bev_fusion.calibration import read_calibration
        from multimodal_perception.training.bev_fusion.export import export_bev_fusion

        config, folder = parts["stage1"]
        images = {}
        if "images" in parts:
            images = {m: parts["images"][1] / encoder_file(m) for m in ("camera", "thermal")}
        refinement = (
            parts["refinement"][1] / WEIGHTS["refinement"] if "refinement" in parts else None
        )
        calibration = None
        if "calibration" in parts:
            calibration = read_calibration(self.weights(*parts["calibration"]))
        return export_bev_fusion(
            config.network,
            self.weights(config, folder),
            images,
            refinement,
            out / name,
            score_calibration=calibration,
        )
