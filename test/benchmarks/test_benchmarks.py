"""`bench` runs without other software and from an installed copy; unusable baselines are errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.benchmarks import detector, engine
from multimodal_perception.cli.main import COMMANDS, main
from multimodal_perception.runtime.card import shipped_cards
from test.runtime import small_models

ROOT = Path(__file__).resolve().parents[2]


def test_synchronizer_is_measured_without_message_filters(tmp_path: Path) -> None:
    path = tmp_path / "sync.json"
    assert main(["bench", "sync", "--seconds", "2", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert set(result["us_per_message"]["ours"]) == {"4", "8", "12", "30"}
    assert result["frames_with_silent_sensor"]["ours"] == 1.0


def test_occupancy_is_measured_without_octomap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "occupancy.json"
    assert main(["bench", "occupancy", "--repeats", "3", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["points"] == 120_000
    assert 0 < result["ours_ms"]["ground"]["p50"] < result["ours_ms"]["total"]["p50"]
    assert set(result["targets_met"]) >= {"total", "ultrasonic"}
    assert main(["bench", "occupancy", "--reference-python", str(tmp_path / "python")]) == 2
    assert "--reference-python" in capsys.readouterr().err


def test_missing_baseline_and_invalid_duration_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "sync", "--baseline", str(tmp_path)]) == 2
    assert "no message_filters package" in capsys.readouterr().err
    assert main(["bench", "intake", "--seconds", "-1"]) == 2


def test_simulator_is_measured_per_sensor(tmp_path: Path) -> None:
    path = tmp_path / "simulate.json"
    arguments = ["bench", "simulate", "--frames", "2", "--workers", "1", "--json", str(path)]
    assert main([*arguments, "--scenario", "highway"]) == 0
    result = json.loads(path.read_text())
    assert result["frames"] == 2 and result["frames_per_s"] > 0 and 0 < result["memory_gib"] < 4
    parts = result["single_process_ms"]
    assert {"scene", "lidar", "camera_front", "thermal_front", "ultrasonics", "truth"} <= set(parts)
    assert main([*arguments, "--scenario", "moon"]) == 2
    assert main(["bench", "simulate", "--frames", "0"]) == 2


@pytest.mark.parametrize("python", ["/no/python", sys.executable])
def test_evaluators_need_an_interpreter_with_nuscenes_devkit(
    python: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "evaluators", "--reference-python", python]) == 2
    assert ("/no/python" if python == "/no/python" else "nuscenes") in capsys.readouterr().err


BASELINE = """
import torch
from pointpillars.ops import Voxelization, nms_cuda
class PillarLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.voxel_layer = Voxelization(
            voxel_size=[0.5, 0.5, 4], point_cloud_range=[0, -20, -3, 40, 20, 1],
            max_num_points=32, max_voxels=(100, 20000))
class PointPillars(torch.nn.Module):
    def __init__(self, nclasses):
        super().__init__()
        self.pillar_layer = PillarLayer()
    def forward(self, batched_pts, mode):
        voxels, cells, counts = self.pillar_layer.voxel_layer(batched_pts[0])
        assert 100 < len(voxels) == len(cells) == len(counts) and int(counts.min()) > 0
        boxes = torch.tensor([[0.0, 0, 4, 2, 0], [0.1, 0, 4, 2, 0], [9, 9, 11, 10, 1]])
        kept = nms_cuda(boxes=boxes, scores=torch.tensor([0.2, 0.9, 0.5]), thresh=0.01)
        assert kept.tolist() == [1, 2]
        return [{"lidar_bboxes": boxes, "scores": boxes, "labels": boxes}]
"""


def test_detector_is_measured_per_part_and_compared_with_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detector, "MIN_ROUNDS", 1)
    monkeypatch.setattr(detector, "FRAMES", 1)
    baseline = tmp_path / "baseline" / "pointpillars"
    for name, text in {
        "model/__init__.py": "from .pointpillars import PointPillars",
        "model/pointpillars.py": BASELINE,
        "utils/process.py": "def keep_bbox_from_lidar_range(result, limits): return result",
    }.items():
        (baseline / name).parent.mkdir(parents=True, exist_ok=True)
        (baseline / name).write_text(text)
    path = tmp_path / "detector.json"
    arguments = ["bench", "detector", "--seconds", "0.1", "--threads", "1", "--json", str(path)]
    arguments += ["--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--baseline", str(tmp_path)]) == 2
    assert "no checkout of PointPillars" in capsys.readouterr().err
    try:
        assert main([*arguments, "--baseline", str(baseline.parent)]) == 0
    finally:
        for name in [n for n in sys.modules if n.startswith("pointpillars")]:
            del sys.modules[name]
    result = json.loads(path.read_text())
    parts = (
        "preprocessing",
        "images",
        "proposals",
        "proposal_postprocessing",
        "refinement",
        "refinement_postprocessing",
    )
    assert {"onnxruntime", "torch"} <= set(result["ms"]) and result["fastest"] in result["ms"]
    assert "int8" in result["not_used"].get("openvino_int8", "int8")
    for name in set(result["ms"]) - {"pointpillars"}:
        ms = result["ms"][name]
        assert all(ms[p]["p50"] > 0 for p in parts)
        assert sum(ms[p]["min"] for p in parts) <= ms["total"]["min"] * 1.01
    fastest_ms = result["ms"][result["fastest"]]["total"]["p50"]
    for name, key, target in (
        ("pointpillars", "times_faster_than_baseline", 10),
        ("onnxruntime", "times_faster_than_onnxruntime", 2),
    ):
        ratio = result["ms"][name]["total"]["p50"] / fastest_ms
        assert result[key] == pytest.approx(ratio)
        assert result["targets_met"][key] == (ratio >= target)
    assert "random weights" in result["baseline"]


def test_engines_are_measured_for_one_model_or_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = [small_models.save(tmp_path / n, small_models.scatter_model()) for n in ("one", "two")]
    monkeypatch.setattr(engine, "shipped_cards", lambda: [card.path for card in cards])
    path = tmp_path / "engine.json"
    arguments = ["bench", "engine", "--seconds", "0.1", "--threads", "1", "--json", str(path)]
    assert main([*arguments, "--all"]) == 0
    result = json.loads(path.read_text())
    assert result["cpu"] and result["threads"] == 1 and set(result["models"]) == {"one", "two"}
    for model in result["models"].values():
        engines = model["engines"]
        assert engines["onnxruntime"]["p50_ms"] > 0 and model["fastest"] in engines
        assert engines["onnxruntime"]["difference"] == 0.0
        assert model["inputs"] == "synthetic frames" and engines["torch"]["not_used"]
    assert main([*arguments, str(tmp_path / "two")]) == 0
    result = json.loads(path.read_text())
    assert result["model"] == "two" and result["engines"]["onnxruntime"]["runs"] >= engine.MIN_RUNS
    for wrong in ([], ["two", "--all"], ["--all", "--inputs", "synthetic"]):
        assert main([*arguments, *wrong]) == 2
    assert "either the name of a model or --all is required" in capsys.readouterr().err


def test_documentation_has_the_latency_of_every_shipped_model() -> None:
    result = json.loads((ROOT / "docs/reference/engine_latency.json").read_text())
    assert set(result["models"]) == {path.parent.name for path in shipped_cards()}
    assert all(m["engines"]["onnxruntime"]["p50_ms"] > 0 for m in result["models"].values())
    assert result["cpu"] and result["threads"] >= 1


def test_voxels_are_filled_in_order_of_the_points() -> None:
    voxelise = detector.voxelise
    points = np.array(
        [[0.1, 0.1, 0, 1], [1.2, 0.3, 0, 2], [0.2, 0.2, 0, 3], [0.3, 0.3, 0, 4], [9, 9, 0, 5]],
        np.float32,
    )
    bounds = np.array([0, 0, -1, 2, 2, 1], np.float32)
    voxels, cells, counts = voxelise(points, bounds, np.ones(3, np.float32), 2, 10)
    assert counts.tolist() == [2, 1] and cells.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert voxels[0, :, 3].tolist() == [1, 3] and voxels[1, :, 3].tolist() == [2, 0]
    assert len(voxelise(points, bounds, np.ones(3, np.float32), 2, 1)[0]) == 1


def test_benchmarks_run_from_an_installed_copy(tmp_path: Path) -> None:
    """No benchmark needs the source checkout."""
    library = tmp_path / "lib"
    setup = [sys.executable, "setup.py", "-q"]
    for command in (["build_py", "-d", str(library)], ["install_data", "-d", str(library)]):
        subprocess.run([*setup, *command], cwd=ROOT, check=True, capture_output=True)
    paths = [str(library), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments: str) -> str:
        process = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=tmp_path,
            env=environment,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    imported = run("-c", "import multimodal_perception as m; print(m.__file__)")
    assert imported.strip().startswith(str(library))
    command = ["-m", "multimodal_perception.cli.main", "bench"]
    for name in COMMANDS["bench"].subcommands:
        assert "--json" in run(*command, name, "--help")
    simulate = [*command, "simulate", "--frames", "1", "--workers", "1", "--scenario", "highway"]
    assert "frames_per_s" in run(*simulate)
    run(*command, "sync", "--seconds", "1", "--json", str(tmp_path / "sync.json"))
    assert json.loads((tmp_path / "sync.json").read_text())["us_per_message"]["ours"]
