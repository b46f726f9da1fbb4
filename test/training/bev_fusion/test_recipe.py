"""The recipe of the BEV fusion detector from nothing to a model: killed, continued, packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.model_cards import read_detector_cards
from multimodal_perception.runtime.card import load_card
from multimodal_perception.training.bev_fusion.export import plain_config
from multimodal_perception.training.recipe import packed_state
from multimodal_perception.training.recipe.configuration import load_recipe
from multimodal_perception.training.recipe.plan import Plan
from multimodal_perception.training.recipe.steps import StepRunner, locked
from test.training.bev_fusion.tiny import SEED, TINY
from test.training.recipe.test_recipe import kill_when_exists, models

LOOP = {"steps": 3, "batch_size": 2, "workers": 0, "save_every": 1, "precision": "fp32"}
NETWORK = {**plain_config(TINY), "pillars": {"half_extent": 25.6, "cell": 0.8, "max_pillars": 1500}}


def stage(
    kind: str, data: str, initial_weights: Sequence[str] = (), **changes: Any
) -> dict[str, Any]:
    settings = {
        "stage": kind, "network": NETWORK, "loop": LOOP, "pretrained": False, "rois_per_frame": 8,
        **changes,
    }  # fmt: skip
    return {"data": data, "initial_weights": list(initial_weights), "settings": settings}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe with all five stages, and its configuration inside. changes: replaced keys."""
    drives = {"seeds": [str(SEED)], "frames": 2, "frame_interval": 4}
    recipe: dict[str, Any] = {
        "name": "tiny",
        "network": "bev_fusion",
        "data": {"images": drives, "drives": drives},
        "stages": {
            "image_encoder": stage("image_encoder", "images"),
            "lidar": stage("lidar", "drives", gt_sampling={"car": 1}),
            "fusion": stage("fusion", "drives", ["image_encoder", "lidar"]),
            "refinement": stage("refinement", "drives", ["image_encoder", "fusion"]),
            "calibration": stage(
                "calibration", "drives", ["image_encoder", "fusion", "refinement"]
            ),
        },
        "export": {
            "stage1": "fusion",
            "images": "image_encoder",
            "refinement": "calibration",
            "calibration": "calibration",
        },
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # JSON is YAML, and has no aliases for values that occur twice.
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))
    return folder / "recipe.yaml"


def evaluate(words: Sequence[str]) -> None:
    Path(words[-1]).write_text(json.dumps({"arguments": list(words)}))


def runner_of(recipe: Path, out: Path) -> tuple[Plan, StepRunner]:
    plan = Plan(load_recipe(recipe), out, evaluate)
    return plan, StepRunner(out, plan.steps())


def run_until(recipe: Path, out: Path, last: str) -> StepRunner:
    """Run the steps of a recipe up to one of them."""
    plan, runner = runner_of(recipe, out)
    with locked(out):
        for step in plan.steps():
            runner.run(step)
            if step.name == last:
                break
    return runner


def stage_results(out: Path) -> dict[str, bytes]:
    """The weights and the calibration that the stages have written, by path."""
    stages = out / "stages"
    paths = [*stages.glob("*/*.safetensors"), *stages.glob("*/calibration.json")]
    return {str(p.relative_to(stages)): p.read_bytes() for p in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe and the folder of its uninterrupted run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recipe")
    recipe = write_recipe(folder)
    run_until(recipe, folder / "out", "card")
    return recipe, folder / "out"


@pytest.mark.timeout(600)
def test_a_recipe_writes_a_detector_with_calibrated_scores(finished: tuple[Path, Path]) -> None:
    _, out = finished
    assert set(models(out)) == {"tiny", "tiny_camera", "tiny_thermal", "tiny_refinement"}
    cards = read_detector_cards(str(out / "models" / "tiny"))
    assert cards.network.past_sweeps == TINY.past_sweeps and set(cards.images) == {
        "camera",
        "thermal",
    }
    assert cards.refinement is not None and cards.calibration.shape == (10, 2)
    training = load_card(out / "models" / "tiny").training
    assert training is not None and f"seeds {SEED}" in training.data and training.hours >= 0


def test_data_is_rendered_just_before_the_first_stage_that_needs_it(
    finished: tuple[Path, Path],
) -> None:
    recipe, out = finished
    plan, runner = runner_of(recipe, out)
    names = [step.name for step in plan.steps()]
    assert names[:4] == ["render/images", "train/image_encoder", "render/drives", "train/lidar"]
    samples = out / "data" / "images"
    for path in samples.iterdir():
        path.unlink()
    samples.rmdir()
    runner.run(plan.steps()[0])
    assert not samples.exists(), "data that no unfinished stage needs is not rendered again"


@pytest.mark.timeout(900)
def test_a_recipe_that_was_killed_gives_the_same_weights(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, out = write_recipe(tmp_path), tmp_path / "out"
    for pattern in (
        "data/images/*.npz",
        "stages/image_encoder/checkpoint.pt",
        "data/drives/*.features",
        "stages/refinement/checkpoint.pt",
    ):
        kill_when_exists(recipe, out, pattern)
    torch.set_num_threads(1)
    run_until(recipe, out, "train/calibration")  # test/training/recipe has a killed export
    results = stage_results(out)
    assert {path.split("/")[0] for path in results} == set(json.loads(recipe.read_text())["stages"])
    assert results == stage_results(finished[1])


def test_a_packed_state_continues_in_an_empty_folder(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, first, second = write_recipe(tmp_path), tmp_path / "first", tmp_path / "second"
    plan, runner = runner_of(recipe, first)
    with pytest.raises(UserError, match="no stage was started"):
        packed_state.pack(runner, tmp_path / packed_state.FILE)
    for step in plan.steps()[:4]:
        runner.run(step)
    stopped = runner.steps["train/lidar"]
    # As if the stage had been killed after its second checkpoint.
    (first / "steps" / "train_lidar.finished").unlink()
    state = torch.load(stopped.output / "checkpoint.pt", weights_only=True)
    state["progress"]["step"] = 2
    torch.save(state, stopped.output / "checkpoint.pt")
    command = ["train", "recipe", str(recipe), "--out"]
    assert main([*command, str(first), "--pack"]) == 0
    assert "train/image_encoder (finished), train/lidar (step 2)" in capsys.readouterr().out
    assert (tmp_path / packed_state.FILE).stat().st_size < packed_state.MAX_BYTES

    _, fresh = runner_of(recipe, second)
    lines: list[str] = []
    with locked(second):
        packed_state.restore(fresh, tmp_path / packed_state.FILE, lines.append)
    assert len(lines) == 2 and all("restored" in line for line in lines)
    assert fresh.state(fresh.steps["train/image_encoder"]) == "finished"
    assert fresh.state(fresh.steps["train/lidar"]) == "interrupted"
    for name in ("camera_encoder", "thermal_encoder"):
        file = f"stages/image_encoder/{name}.safetensors"
        assert (first / file).read_bytes() == (second / file).read_bytes()
    before, after = (
        torch.load(folder / "stages" / "lidar" / "checkpoint.pt", weights_only=True)
        for folder in (first, second)
    )
    for part in ("network", "ema"):
        for name, tensor in before[part].items():
            torch.testing.assert_close(after[part][name], tensor, rtol=1e-3, atol=1e-6)
    assert after["optimizer"]["state"].keys() == before["optimizer"]["state"].keys()
    # The restored run goes on to the end.
    runner = run_until(recipe, second, "train/lidar")
    assert (second / "stages" / "lidar" / "stage1.safetensors").exists()
    assert not (second / "data" / "images").exists(), "data of finished stages is not rendered"
    # A folder with a state of its own is left as it is.
    lines.clear()
    packed_state.restore(runner, tmp_path / packed_state.FILE, lines.append)
    assert not lines


def test_a_packed_state_of_another_recipe_is_not_used(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, out = finished
    _, runner = runner_of(recipe, out)
    file = tmp_path / packed_state.FILE
    assert "train/fusion (finished)" in packed_state.pack(runner, file)
    other = write_recipe(tmp_path / "other", stages={
        "image_encoder": stage("image_encoder", "images"),
        "lidar": stage("lidar", "drives", loop={**LOOP, "seed": 7}),
    }, export={"stage1": "lidar"})  # fmt: skip
    _, fresh = runner_of(other, tmp_path / "out")
    lines: list[str] = []
    packed_state.restore(fresh, file, lines.append)
    assert [("restored" in line, "another recipe" in line) for line in lines] == [
        *([(True, False)] if "train/image_encoder" in lines[0] else []),
        *([(False, True)] * (len(lines) - 1)),
    ]
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: not a packed state"):
        packed_state.restore(fresh, file, lines.append)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages": {"a": stage("fusion", "drives")}, "export": {"stage1": "a"}},
            "needs the weights of a stage image_encoder",
        ),
        ({"export": {"images": "image_encoder"}}, r"export\.stage1: missing"),
        ({"export": {"stage1": "refinement"}}, r"export\.stage1: refinement is a stage refinement"),
        ({"stages": {"a": {"data": "drives"}}}, "needs either config or settings"),
        (
            {
                "stages": {"a": stage("lidar", "drives", gt_sampling={"tram": 1})},
                "export": {"stage1": "a"},
            },
            r"stages\.a\.settings: gt_sampling: allowed: car",
        ),
        (
            {"stages": {"a": stage("lidar", "drives")}, "data": {
                "drives": {"seeds": ["1"]}, "more": {"seeds": ["2"]}}, "export": {"stage1": "a"}},
            r"data\.more: is not used",
        ),
    ],
)  # fmt: skip
def test_errors_name_file_and_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Plan(load_recipe(write_recipe(tmp_path, **changes)), tmp_path / "out", evaluate).steps()
