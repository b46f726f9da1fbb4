"""Recipes from nothing to a model card: resumed after kills, changed, refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.resources import share_path
from multimodal_perception.runtime.card import load_card
from multimodal_perception.training.recipe.card import write_model_cards
from multimodal_perception.training.recipe.configuration import load_recipe
from multimodal_perception.training.recipe.plan import Plan
from multimodal_perception.training.recipe.steps import StepRunner, locked
from test.killed_processes import kill_when
from test.training.bev_fusion.tiny import SEED
from test.training.recipe.tiny_recipes import LOOP, write_detector_recipe, write_recipe


def evaluate(words: Sequence[str]) -> None:
    """An evaluation that writes its arguments."""
    Path(words[-1]).write_text(json.dumps({"arguments": list(words[:-2])}))


def run(recipe: Path, out: Path, processes: int = 1, last: str = "") -> StepRunner:
    """Run the steps of a recipe, all of them or up to `last`."""
    plan = Plan(load_recipe(recipe), out, evaluate, processes=processes)
    runner = StepRunner(out, plan.steps())
    with locked(out):
        for step in plan.steps():
            runner.run(step)
            if step.name == last:
                break
    return runner


def models(out: Path) -> dict[str, bytes]:
    """The weights of all finished models."""
    return {p.parent.name: p.read_bytes() for p in sorted(out.glob("models/*/model.safetensors"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A detector recipe and the folder of its uninterrupted run."""
    folder = tmp_path_factory.mktemp("recipe")
    recipe = write_detector_recipe(folder, evaluation={"quick": "subsets --detector {model}"})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on the number of threads; the killed runs have one
    try:
        run(recipe, folder / "out")
    finally:
        torch.set_num_threads(threads)
    return recipe, folder / "out"


@pytest.mark.timeout(600)
def test_a_recipe_writes_models_with_complete_cards(finished: tuple[Path, Path]) -> None:
    recipe, out = finished
    assert set(models(out)) == {"tiny", "tiny_camera", "tiny_thermal", "tiny_refinement"}
    card = load_card(out / "models" / "tiny")
    card.read_file("onnx")
    training = card.training
    assert training is not None and training.recipe == "recipe.yaml"
    stages = ("image_encoder", "lidar", "fusion", "refinement")
    assert set(training.files) == {"recipe.yaml", *(f"{name}.yaml" for name in stages)}
    assert training.files["recipe.yaml"] == load_recipe(recipe).file_hashes()["recipe.yaml"]
    assert f"seeds {SEED}" in training.data and training.version and training.device
    assert "a random rig in each of the other drives" in training.data
    assert card.notes == "For a test."
    assert card.figures["quick"] == {
        "command": "evaluate subsets --detector {model}",
        "arguments": ["subsets", "--detector", "tiny"],  # no path of this computer
    }
    other = load_card(out / "models" / "tiny_refinement")
    assert other.training == training and "quick" not in other.figures


def test_a_finished_recipe_does_nothing(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    run(recipe, out)
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p)} <= {out / "steps" / "lock"}


def test_a_changed_stage_is_trained_again_and_earlier_steps_are_kept(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, out = write_detector_recipe(tmp_path), tmp_path / "out"
    shutil.copytree(finished[1], out)
    weights = out / "stages" / "refinement" / "stage2.safetensors"
    earlier = {p: p.stat().st_mtime_ns for p in out.glob("stages/*/stage1.safetensors")}
    assert {p.parent.name for p in earlier} == {"lidar", "fusion"}
    config = yaml.safe_load((tmp_path / "refinement.yaml").read_text())
    config["loop"] = {**LOOP, "steps": 2}
    (tmp_path / "refinement.yaml").write_text(yaml.safe_dump(config))
    plan = Plan(load_recipe(recipe), out, evaluate)
    runner = StepRunner(out, plan.steps())
    states = {step.name: runner.state(step) for step in plan.steps()}
    # The evaluation, which this recipe does not have, changes no weights.
    kept = {"render/drives", "train/image_encoder", "train/lidar", "train/fusion"}
    assert {name for name, state in states.items() if state == "finished"} == kept
    before = weights.read_bytes()
    run(recipe, out, last="train/refinement")
    assert weights.read_bytes() != before
    assert earlier == {p: p.stat().st_mtime_ns for p in earlier}


def kill_when_exists(recipe: Path, out: Path, pattern: str) -> None:
    """Run a recipe in another process and kill it as soon as a file exists in `out`."""
    arguments = ["train", "recipe", str(recipe), "--out", str(out), "--workers", "1"]
    arguments += ["--threads", "1"]
    kill_when(lambda: any(out.glob(pattern)), f"{pattern} exists", main, arguments)


@pytest.mark.timeout(900)
def test_a_recipe_that_was_killed_gives_the_same_weights(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = write_detector_recipe(tmp_path)
    out = tmp_path / "out"
    for pattern in (
        # test/training/bev_fusion has kills within the rendering and the stages.
        "steps/render_drives.finished",  # between steps
        "export/tiny_camera/model.onnx",
    ):
        kill_when_exists(recipe, out, pattern)
    assert main(["train", "recipe", str(recipe), "--out", str(out), "--threads", "1"]) == 0
    assert models(out) == models(finished[1])


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_detector_recipe(tmp_path)
    out = tmp_path / "out"
    assert main(["train", "recipe", str(recipe), "--out", str(out), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for text in ("render/drives", "train/refinement", "export", "card", "pending", "free"):
        assert text in printed
    assert not out.exists()


def test_a_single_step_needs_the_steps_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_detector_recipe(tmp_path)
    command = ["train", "recipe", str(recipe), "--out", str(tmp_path / "out"), "--only"]
    assert main([*command, "fusion"]) == 2
    assert "train/fusion: the step render/drives is not finished" in capsys.readouterr().err
    assert main([*command, "nothing"]) == 2
    assert "--only nothing: allowed: render/drives, train/image_encoder" in capsys.readouterr().err
    assert main([*command, "drives", "--workers", "1"]) == 0
    assert len(list((tmp_path / "out" / "data" / "drives").glob("*.npz"))) == 2


def test_other_folders_and_folders_in_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with (
        pytest.raises(UserError, match="not empty and not the output folder"),
        locked(tmp_path / "photos"),
    ):
        pass
    with (
        locked(tmp_path / "out"),
        pytest.raises(UserError, match="used by another process"),
        locked(tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "magic"}, r"recipe\.yaml: network: allowed: bev_fusion, segmentation"),
        ({"name": "../x"}, r"recipe\.yaml: name: only lower-case letters"),
        ({"data": {"drives": {"seeds": ["5..3"]}}}, r"recipe\.yaml: data\.drives: seeds: 5\.\.3"),
        ({"data": {"drives": {"seeds": ["10000"]}}}, "reserved for evaluation"),
        ({"data": {"drives": {"seed": 3}}}, r"data\.drives\.seed: unknown key"),
        ({"stages": {}}, "stages: must name at least one stage"),
        (
            {"stages": {"a": {"config": "lidar.yaml", "data": "none"}}},
            r"stages\.a\.data: allowed: drives; got 'none'",
        ),
        (
            {"stages": {"a": {"config": "lidar.yaml", "data": "drives", "initial_weights": ["b"]}}},
            r"stages\.a\.initial_weights: allowed: nothing; got 'b'",
        ),
        (
            {"stages": {"a": {"config": "missing.yaml", "data": "drives"}}, "export": {}},
            r"recipe\.yaml: stages\.a\.config: .*missing\.yaml: No such file",
        ),
        (
            {"stages": {"a": {"config": "refinement.yaml", "data": "drives"}}, "export": {}},
            r"stages\.a\.initial_weights: a stage refinement needs the weights of a stage image_enc",
        ),
        (
            {"export": {"stage1": "nothing"}},
            r"export\.stage1: allowed: image_encoder, lidar, fusion",
        ),
        ({"export": {"refinement": "refinement"}}, r"export\.stage1: missing"),
        (
            {"export": {"stage1": "lidar", "refinement": "fusion"}},
            r"export\.refinement: fusion is a stage fusion; expected refinement",
        ),
        ({"evaluation": {"a": "magic --x"}}, r"evaluation\.a: allowed: .*subsets.*; got 'magic'"),
    ],
)
def test_errors_in_a_recipe_name_file_and_key(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recipe = write_detector_recipe(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_recipe(recipe, ["ablation", "subsets"])


def test_errors_in_a_stage_name_both_files_and_the_key(tmp_path: Path) -> None:
    recipe = write_detector_recipe(tmp_path)
    (tmp_path / "fusion.yaml").write_text("loop: {steps: 0}")
    with pytest.raises(
        UserError,
        match=r"recipe\.yaml: stages\.fusion\.config: .*fusion\.yaml: loop\.steps: allowed",
    ):
        load_recipe(recipe)
    recipe = write_recipe(tmp_path / "boxes", "image_detector", FRAMES, {"backbones": "magic"})
    with pytest.raises(UserError, match="magic"):
        Plan(load_recipe(recipe), tmp_path / "out", evaluate).steps()
    with pytest.raises(UserError, match="neither a recipe file nor a shipped recipe"):
        load_recipe("magic")


def test_stages_share_data_that_serves_all_of_them_or_are_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "masks", "segmentation", FRAMES, {"loop": SMALL_LOOP})
    keys = yaml.safe_load(recipe.read_text())
    depth = {"settings": {"second_input": "lidar", "loop": SMALL_LOOP}, "data": "drives"}
    recipe.write_text(yaml.safe_dump({**keys, "stages": {**keys["stages"], "depth": depth}}))
    render, *_ = Plan(load_recipe(recipe), tmp_path / "out", evaluate).steps()
    assert render.name == "render/drives" and render.inputs["second_input"] == "lidar"
    recipe = write_detector_recipe(tmp_path)
    config = yaml.safe_load((tmp_path / "fusion.yaml").read_text())
    config["network"]["camera_size"] = [64, 96]
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump(config))
    message = (
        r"recipe\.yaml: data\.drives: its stages have different values of network\.camera_size"
    )
    with pytest.raises(UserError, match=message):
        Plan(load_recipe(recipe), tmp_path / "out", evaluate).steps()


@pytest.mark.parametrize(
    "network",
    [
        "bev_fusion",
        "segmentation",
        "image_detector",
        "near_field",
        "image_fusion",
        "sensor_opinions",
    ],
)
def test_shipped_recipes_are_valid(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multimodal_perception.cli.main import COMMANDS

    # The recipes of the image networks start from models that the user puts into the working directory.
    monkeypatch.chdir(tmp_path)
    for model in ("segmentation", "image_detector"):
        shutil.copytree(share_path("config", "models", model), tmp_path / f"{model}_0_2_0")
    file = load_recipe(network, list(COMMANDS["evaluate"].subcommands))
    steps = Plan(file, tmp_path / "out", evaluate).steps()
    assert file.recipe.network == network and steps[-1].name == "card"


FRAMES = {"seeds": ["0"], "frames": 2, "frame_interval": 10}
SMALL_LOOP = {**LOOP, "steps": 2, "batch_size": 1}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("network", "data", "config"),
    [
        ("segmentation", {**FRAMES, "seeds": ["0..1"], "frames": 1}, {"crop_size": [64, 64]}),
        ("image_detector", FRAMES, {}),
        ("near_field", {"seeds": ["0"], "rig": "near_field"}, {}),
        ("image_fusion", {**FRAMES, "rig": "camera_thermal"}, {"crop_size": 32}),
    ],
)
def test_recipes_of_the_other_networks(
    network: str, data: dict[str, Any], config: dict[str, Any], tmp_path: Path
) -> None:
    recipe = write_recipe(
        tmp_path,
        network,
        data,
        {**config, "loop": SMALL_LOOP},
        evaluation={"figures": "subsets --model {model}"},
    )
    run(recipe, tmp_path / "out")
    card = load_card(tmp_path / "out" / "models" / f"tiny_{network}")
    card.read_file("onnx")
    card.read_file("weights")
    assert card.training is not None and card.training.recipe == "recipe.yaml"
    assert card.figures["figures"]["arguments"][0] == "subsets"


@pytest.mark.timeout(600)
def test_a_stage_is_trained_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    data = {**FRAMES, "rig": "camera_thermal"}
    recipe = write_recipe(tmp_path, "image_fusion", data, {"crop_size": 32, "loop": SMALL_LOOP})
    run(recipe, tmp_path / "out", processes=2)
    assert "tiny_image_fusion" in models(tmp_path / "out")
    (tmp_path / "stage.yaml").write_text(
        yaml.safe_dump({"loop": {**SMALL_LOOP, "batch_size": 1024}})
    )
    plan = Plan(load_recipe(recipe), tmp_path / "out", evaluate, processes=5)
    step = next(s for s in plan.steps() if s.name == "train/network")
    with pytest.raises(UserError, match="train/network: torchrun ended with exit code 1"):
        StepRunner(tmp_path / "out", plan.steps()).run(step)


def test_models_are_restored_after_a_crash_between_the_renames(tmp_path: Path) -> None:
    file = load_recipe(write_detector_recipe(tmp_path))
    (tmp_path / ".models.previous" / "tiny").mkdir(parents=True)
    with pytest.raises(UserError, match="not a checkpoint"):
        write_model_cards(
            file, tmp_path / "export", tmp_path / "models", {}, [tmp_path], {"stage1": "lidar"}
        )
    assert (tmp_path / "models" / "tiny").is_dir()
    assert not (tmp_path / ".models.previous").exists()
