"""The command `evaluate robustness`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.cli.evaluate import robustness
from multimodal_perception.cli.evaluate.robustness_job import RobustnessJob
from multimodal_perception.cli.main import main
from multimodal_perception.evaluation.robustness.study import StudyResult
from multimodal_perception.rig import dump_rig
from test.simulation.rigs import small_rig

STREET = ["--root", "synthetic", "--detector", "geometric", "--tasks", "detection", "occupancy"]


def run(out: Path, *arguments: str) -> dict[str, Any]:
    assert main(["evaluate", "robustness", "--json", str(out), *arguments]) == 0
    return dict(json.loads(out.read_text()))


def test_a_report_of_recorded_frames_and_an_interrupted_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    original = robustness.run_job

    def counted(job: RobustnessJob) -> StudyResult:
        made.append(job.study.title)
        if len(made) == 4:
            raise KeyboardInterrupt
        return original(job)

    monkeypatch.setattr(robustness, "run_job", counted)
    options = [*STREET, "--frames", "1", "--severities", "1", "5", "--attack-runs", "2"]
    options += ["--corruptions", "missing", "frozen", "point_drop", "--report", str(tmp_path)]
    options += ["--resume", str(tmp_path / "studies")]
    assert main(["evaluate", "robustness", *options]) == 130
    assert made == ["clean", "missing lidar", "frozen lidar", "point_drop lidar"]
    capsys.readouterr()
    result = run(tmp_path / "r.json", *options)
    # Finished studies are not made again.
    assert made[4:] == ["point_drop lidar", "point_attack lidar against detection"]
    assert not (tmp_path / "studies").exists()
    detection, occupancy = result["tasks"]["detection"], result["tasks"]["occupancy"]
    assert detection["reference"] == "labels" and occupancy["reference"] == "clean run"
    assert 0.0 < detection["clean"]["quality"] <= 1.0 and occupancy["clean"]["quality"] == 1.0
    missing, points, attack = detection["studies"]
    assert missing["severities"]["5"]["quality"] == 0.0
    assert missing["severities"]["5"]["changed_decisions"] == 1.0
    assert points["severities"]["1"]["quality"] >= points["severities"]["5"]["quality"]
    assert attack["unit"] == "cm" and "Square Attack with 2 runs" in attack["method"]
    assert detection["weakest_sensor"] == occupancy["weakest_sensor"] == "lidar"
    assert result["not_applicable"] == {"frozen lidar": "the data has no earlier frames"}
    output = capsys.readouterr()
    assert "weakest sensor: lidar" in output.out
    assert "occupancy: no labels; quality is the consistency with the clean run" in output.out
    page = (tmp_path / "index.html").read_text()
    assert "without labels of occupancy: consistency with the clean run" in page
    assert "weakest sensor" in page and "empirical margins" in page and "<svg" in page
    assert page.count("data:image/jpeg") == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page must load nothing"


def test_simulated_drives_have_labels_of_all_tasks_and_the_printed_patch(tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text(dump_rig(small_rig()))
    result = run(
        tmp_path / "r.json",
        *("--seeds", "10000..10000", "--rig", str(tmp_path / "rig.yaml"), "--frames", "1"),
        *("--detector", "geometric", "--severities", "5", "--no-attacks"),
        *("--corruptions", "missing", "adversarial_patch", "--sensors", "camera", "sonar", "lidar"),
    )
    assert {t: f["reference"] for t, f in result["tasks"].items()} == dict.fromkeys(
        ("detection", "segmentation", "occupancy"), "labels"
    )
    studies = {
        task: {f"{s['name']} {s['target']}": s for s in figures["studies"]}
        for task, figures in result["tasks"].items()
    }
    segmentation = studies["segmentation"]
    # A task has only the studies of sensors that it uses.
    assert "missing lidar" not in segmentation and "missing sonar" not in studies["detection"]
    assert segmentation["missing camera"]["relative_robustness"] < 1.0
    assert (
        segmentation["adversarial_patch all cameras"]["severities"]["5"]["changed_decisions"] > 0.0
    )
    assert studies["detection"]["missing lidar"]["severities"]["5"]["quality"] == 0.0
    pair = studies["occupancy"]["missing sonar + lidar"]["severities"]["5"]["quality"]
    assert pair <= studies["occupancy"]["missing lidar"]["severities"]["5"]["quality"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --seeds A..B or --root PATH"),
        (["--seeds", "1..2", "--root", "synthetic"], "give either"),
        (
            ["--root", "synthetic", "--tasks", "parking"],
            "--tasks: allowed: detection, segmentation",
        ),
        (["--root", "synthetic", "--severities", "6"], "--severities: allowed: an integer, 1 to 5"),
        (
            ["--root", "synthetic", "--corruptions", "hail"],
            "--corruptions: allowed: missing, frozen",
        ),
        (["--seeds", "3..1"], "--seeds '3..1'"),
        (["--seeds", "1..2", "--rig", "no_such_rig"], "no_such_rig"),
        (["--root", "/no/such/folder"], "no such file"),
        ([*STREET, "--sensors", "radar"], "--sensors: allowed: lidar, camera; got 'radar'"),
        ([*STREET, "--compare", "other.json"], "--compare: needs --report DIR"),
        (["--root", "synthetic", "--detector", "magic"], "geometric"),
        ([*STREET, "--segmenter", "segmentation"], "--segmenter: no task uses masks"),
        (["--root", "synthetic", "--segmenter", "no_such_model"], "no_such_model"),
        ([*STREET, "--no-corruptions", "--no-attacks"], "not together with --no-attacks"),
        ([*STREET, "--no-corruptions", "--corruptions", "fog"], "not together with --corruptions"),
    ],
)
def test_wrong_options_are_errors_of_one_line_with_the_allowed_values(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "robustness", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
