"""Evaluation of many data sets: the figures are those of all images, however they are divided."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from multimodal_perception.cli.evaluate.occupancy_jobs import SimulatedDriveResult
from multimodal_perception.cli.json_values import decode, encode
from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.evaluation.worst_pictures import WorstPictures

SIZE = 96, 160


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images as one data set `all`, and divided into the data sets `parts/a` and `parts/b`."""
    folder, rng = tmp_path_factory.mktemp("camvid"), np.random.default_rng(0)
    for number, part in enumerate(("parts/a", "parts/a", "parts/b")):
        pixels = rng.integers(0, 255, (*SIZE, 3), np.uint8)
        labels = rng.integers(0, 11, (SIZE[0] // 16, SIZE[1] // 16), np.uint8).repeat(16, 0)
        for target in ("all", part):
            for name, content in (("images", pixels), ("labels", labels.repeat(16, 1))):
                path = folder / target / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), content)
    return folder


def run(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["evaluate", *arguments, "--json", str(out)])
    return status, json.loads(out.read_text())


@pytest.mark.parametrize("command", ["segmentation", "image-detector"])
def test_divided_images_have_the_figures_of_all_images(
    command: str, camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text(f"{camvid / 'parts' / 'a'}\n{camvid / 'parts' / 'b'}\n")
    options = ["--dataset", "camvid", "--resume", str(tmp_path / "finished")]
    one = run(tmp_path / "one.json", command, "--root", str(camvid / "all"), *options)
    assert one[0] == 0
    for roots in (camvid / "parts", f"{camvid}/parts/*", f"@{tmp_path / 'list.txt'}"):
        assert run(tmp_path / "n.json", command, "--root", str(roots), *options) == one
    # A data set that cannot be read does not stop the others, and their results are kept.
    broken = camvid / "parts" / "c"
    for name in ("images", "labels"):
        (broken / name).mkdir(parents=True)
        (broken / name / "0.png").write_bytes(b"no image")
    try:
        for _ in range(2):  # the second time from the folder of finished data sets
            capsys.readouterr()
            roots = str(camvid / "parts")
            assert run(tmp_path / "n.json", command, "--root", roots, *options) == (1, one[1])
            assert f"failed: {broken}" in capsys.readouterr().err
        assert len(list((tmp_path / "finished").iterdir())) == 2
    finally:
        for path in (*broken.rglob("*.png"), broken / "images", broken / "labels", broken):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("command", ["segmentation", "image-detector"])
@pytest.mark.parametrize("option", [["--workers", "2"], ["--root", "x"], ["--executor", "ray"]])
def test_options_of_many_inputs_need_a_data_set(
    command: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", command, *option]) == 2
    assert f"{option[0]}: needs --dataset" in capsys.readouterr().err


def test_occupancy_of_several_recordings_is_that_of_their_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multimodal_perception.cli.evaluate import occupancy_jobs

    street = SyntheticDataset(rings=32, columns=900)
    for name, frames in (("a", (0,)), ("b", (4, 5))):
        write_bag([street[k] for k in frames], street.rig, tmp_path / "drives" / name)
    simulated: list[str] = []

    def without_simulation(job: Any) -> SimulatedDriveResult:
        simulated.append(job.name)
        if job.condition == "night":
            raise ValueError("for a test")
        result = SimulatedDriveResult(WorstPictures(0), times_ms=[float(job.seed)])
        cell = np.array([0.9]), np.array([True]), np.array([1])
        result.scores.scores["full", job.condition].add(*cell)
        return result

    monkeypatch.setattr(occupancy_jobs, "run_simulated_drive", without_simulation)
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("detector: geometric\n")
    options = ["--seeds", "7..8", "--frames", "2", "--pipeline", str(pipeline)]
    options += ["--resume", str(tmp_path / "finished"), "--root"]

    def real(*roots: str) -> tuple[int, dict[str, float]]:
        status, result = run(tmp_path / "n.json", "occupancy", *options, *roots)
        assert result["frames"] == 4  # two seeds by day; the nights failed
        return status, result["real"]

    status, both = real(str(tmp_path / "drives"))
    assert status == 1 and simulated[:3] == ["seed 7, day", "seed 7, night", "seed 7, fog"]
    (_, a), (_, b) = (real(str(tmp_path / "drives" / name)) for name in "ab")
    assert (a["frames"], b["frames"], both["frames"]) == (1, 2, 3)
    for cells, shares in {
        "footprint_cells": ["footprint_free"],
        "ground_cells": ["ground_occupied"],
    }.items():
        assert both[cells] == a[cells] + b[cells] > 0
        for share in shares:
            mean = (a[share] * a[cells] + b[share] * b[cells]) / both[cells]
            assert math.isclose(both[share], mean, abs_tol=1e-12)
    # Finished drives are not simulated again.
    assert simulated.count("seed 8, fog") == 1 and simulated.count("seed 8, night") == 3


def test_without_any_result_the_reasons_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from multimodal_perception.cli.evaluate import occupancy_jobs

    def fail(job: Any) -> None:
        raise ValueError("for a test")

    monkeypatch.setattr(occupancy_jobs, "run_simulated_drive", fail)
    arguments = ["evaluate", "occupancy", "--seeds", "7", "--resume", str(tmp_path / "finished")]
    assert main(arguments) == 2
    assert "failed: seed 7, fog: ValueError: for a test" in capsys.readouterr().err


def test_scores_of_simulated_drives_survive_the_folder_of_finished_drives() -> None:
    result = SimulatedDriveResult(WorstPictures(2), times_ms=[1.5])
    result.worst.add(0.3, "frame", lambda: np.zeros((4, 4, 3), np.uint8))
    probability = np.array([0.9, 0.2, 0.4])
    observed = np.array([True, True, False])
    result.scores.scores["full", "day"].add(probability, observed, np.array([1, 0, 1]))
    result.scores.by_distance["0-5 m"].add(probability, observed, np.array([1, 1, 1]))
    result.scores.contradictions["full", "day"].append(0.25)
    total = SimulatedDriveResult(WorstPictures(2))
    for _ in range(2):
        total.merge(decode(json.loads(json.dumps(encode(result)))))
    metrics, once = total.scores.metrics(), result.scores.metrics()
    for name in ("iou_occupied", "brier", "ece"):
        assert metrics[name] == once[name]
    assert metrics["cells"] == 2 * once["cells"] == 4
    assert metrics["by_subset"]["full"]["contradiction"] == 0.25
    assert total.times_ms == [1.5, 1.5]
    assert [p.caption for p in total.worst.pictures()] == ["frame", "frame"]
