"""kill -9 at random times: the same call continues, and its result is that of an uninterrupted one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from multimodal_perception.cli.convert import conversion_marker
from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag_writer import typestore, write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.rig import dump_rig
from multimodal_perception.training.image_fusion.train import (
    ImageFusionTraining,
    real_samples,
    train_image_fusion,
)
from multimodal_perception.training.loop import LoopConfig
from test.killed_processes import kill_at_random, run_to_end
from test.simulation.rigs import small_rig

KILLS = 3


def bag_messages(folder: Path) -> list[tuple[str, int, bytes]]:
    with AnyReader([folder], default_typestore=typestore()) as reader:
        return [(c.topic, ns, bytes(raw)) for c, ns, raw in reader.messages()]


def files(folder: Path) -> set[str]:
    """Relative paths of all files, hidden ones included."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags of the synthetic street."""
    folder = tmp_path_factory.mktemp("drives")
    street = SyntheticDataset(rings=32, columns=900)
    for name, frames in (("a", (0, 1, 2)), ("b", (4, 5, 6))):
        write_bag([street[k] for k in frames], street.rig, folder / name)
    return folder


@pytest.mark.parametrize("format", ["bag", "dataset"])
def test_simulate(format: str, tmp_path: Path) -> None:
    rig = small_rig()
    rig = replace(rig, sensors={name: rig.sensors[name] for name in ("sonar", "thermal")})
    (tmp_path / "rig.yaml").write_text(dump_rig(rig))
    arguments = ["simulate", "--rig", str(tmp_path / "rig.yaml"), "--scenario", "warehouse"]
    arguments += ["--frames", "4", "--workers", "1", "--profile", "basic"]
    arguments += ["--format", format, "--out"]
    # The names of the bag's files contain that of the folder.
    expected, out = tmp_path / "expected" / "drive", tmp_path / "killed" / "drive"
    seconds = run_to_end(main, [*arguments, str(expected)])
    kill_at_random(1, KILLS, seconds, out, main, [*arguments, str(out)])
    assert main([*arguments, str(out)]) == 0
    assert files(out) == files(expected)
    if format == "bag":
        assert bag_messages(out) == bag_messages(expected)
    else:
        assert all((out / f).read_bytes() == (expected / f).read_bytes() for f in files(expected))


@pytest.mark.parametrize("roots", ["one drive", "all drives"])
def test_convert(roots: str, drives: Path, tmp_path: Path) -> None:
    root = drives / "a" if roots == "one drive" else drives
    arguments = ["convert", "--root", str(root), "--storage", "mcap"]
    arguments += ["--resume", str(tmp_path / "finished"), "--out"]
    expected, out = tmp_path / "expected" / "bags", tmp_path / "killed" / "bags"
    seconds = run_to_end(main, [*arguments, str(expected)])
    shutil.rmtree(tmp_path / "finished", ignore_errors=True)
    kill_at_random(2, KILLS, seconds, out, main, [*arguments, str(out)])
    assert main([*arguments, str(out)]) == 0
    assert files(out.parent) == files(expected.parent)
    for folder in (out,) if roots == "one drive" else (out / "a", out / "b"):
        assert bag_messages(folder) == bag_messages(expected / folder.relative_to(out))


def test_a_bag_that_was_complete_when_the_conversion_was_killed_is_kept(
    drives: Path, tmp_path: Path
) -> None:
    arguments = ["convert", "--root", str(drives), "--storage", "mcap"]
    arguments += ["--resume", str(tmp_path / "finished"), "--out", str(tmp_path / "bags")]
    assert main(arguments) == 0
    assert files(tmp_path / "bags") == {
        f"{n}/{f}" for n in "ab" for f in files(tmp_path / "bags" / n)
    }
    assert main(arguments) == 1  # bags of an earlier, complete run are not overwritten
    # As after a kill between the renaming of the bag and the entry in the folder of finished drives.
    shutil.rmtree(tmp_path / "finished")
    shutil.rmtree(tmp_path / "bags" / "b")
    before = files(tmp_path / "bags")
    conversion_marker(tmp_path / "bags" / "a").touch()
    assert main(arguments) == 0
    assert before < files(tmp_path / "bags")
    assert bag_messages(tmp_path / "bags" / "a")


def test_evaluate(drives: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "detections", "--root", str(drives), "--detector", "geometric"]
    arguments += ["--repeats", "1", "--resume", str(tmp_path / "finished"), "--json"]
    expected, out = tmp_path / "expected.json", tmp_path / "out.json"
    seconds = run_to_end(main, [*arguments, str(expected)])
    kill_at_random(3, KILLS, seconds, out, main, [*arguments, str(out)])
    assert main([*arguments, str(out)]) == 0
    results = [json.loads(path.read_text()) for path in (expected, out)]
    for result in results:
        for name in ("latency_ms", "stage_ms", "frame_ms"):
            del result[name]
    assert results[0] == results[1] and results[0]["frames"] == 6


def test_train(tmp_path: Path) -> None:
    """All trainings use the same loop; test/training/recipe kills complete recipes."""
    rng = np.random.default_rng(0)
    for folder in ("visible", "infrared"):
        (tmp_path / folder).mkdir()
        for k in range(5):
            image = rng.integers(0, 255, (48, 64), np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{k}.png"), image)
    loop = LoopConfig(steps=40, batch_size=2, workers=0, save_every=2, precision="fp32")
    config = ImageFusionTraining(crop_size=32, simulated_fraction=0.0, loop=loop)
    samples = real_samples(tmp_path)
    expected, out = tmp_path / "expected", tmp_path / "out"
    seconds = run_to_end(train_image_fusion, config, samples, [], expected, None)
    kill_at_random(4, KILLS, seconds, out, train_image_fusion, config, samples, [], out, None)
    run_to_end(train_image_fusion, config, samples, [], out, None)
    name = "image_fusion.safetensors"
    assert (out / name).read_bytes() == (expected / name).read_bytes()
