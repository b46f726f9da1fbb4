"""`bench` writes what it prints; what no peer is needed for holds without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from multimodal_perception.cli import bench
from multimodal_perception.cli.main import main


def test_our_side_of_the_synchronizer_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "sync.json"
    assert main(["bench", "sync", "--seconds", "2", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert set(result["us_per_message"]["ours"]) == {"4", "8", "12", "30"}
    assert result["frames_with_dead_sensor"]["ours"] == 1.0


def test_occupancy_is_timed_with_and_without_its_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = bench.load_benchmark

    def quick(name: str) -> ModuleType:
        module = load(name)
        monkeypatch.setattr(module, "REPEATS", 3)
        return module

    monkeypatch.setattr(bench, "load_benchmark", quick)
    path = tmp_path / "occupancy.json"
    assert main(["bench", "occupancy", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["points"] == 120_000
    assert 0 < result["ours_ms"]["ground"]["p50"] < result["ours_ms"]["total"]["p50"]
    assert set(result["met"]) >= {"total", "ultrasonic"}
    assert main(["bench", "occupancy", "--peer", str(tmp_path / "python")]) == 2
    assert "--peer" in capsys.readouterr().err


def test_a_peer_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "sync", "--peer", str(tmp_path)]) == 2
    assert "no message_filters package" in capsys.readouterr().err
    assert main(["bench", "intake", "--seconds", "-1"]) == 2


def test_the_simulator_is_measured_by_sensor(tmp_path: Path) -> None:
    path = tmp_path / "simulate.json"
    arguments = ["bench", "simulate", "--frames", "2", "--workers", "1", "--json", str(path)]
    assert main([*arguments, "--scenario", "highway"]) == 0
    result = json.loads(path.read_text())
    assert result["frames"] == 2 and result["frames_per_s"] > 0 and 0 < result["memory_gib"] < 4
    parts = result["one_process_ms"]
    assert {"scene", "lidar", "camera_front", "thermal_front", "ultrasonics", "truth"} <= set(parts)
    assert main([*arguments, "--scenario", "moon"]) == 2
    assert main(["bench", "simulate", "--frames", "0"]) == 2


@pytest.mark.parametrize(
    ("peer", "words"),
    [(None, "--peer: a Python"), ("/no/python", "/no/python"), (sys.executable, "nuscenes")],
)
def test_evaluators_need_a_peer_that_has_them(peer, words, capsys):  # type: ignore[no-untyped-def]
    arguments = [] if peer is None else ["--peer", peer]
    assert main(["bench", "evaluators", *arguments]) == 2
    assert words in capsys.readouterr().err


PEER = """
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


def test_the_detector_is_timed_by_parts_and_beside_its_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = bench.load_benchmark

    def quick(name: str) -> ModuleType:
        module = load(name)
        monkeypatch.setattr(module, "MIN_ROUNDS", 1)
        monkeypatch.setattr(module, "FRAMES", 1)
        return module

    monkeypatch.setattr(bench, "load_benchmark", quick)
    peer = tmp_path / "peer" / "pointpillars"
    for name, text in {
        "model/__init__.py": "from .pointpillars import PointPillars",
        "model/pointpillars.py": PEER,
        "utils/process.py": "def keep_bbox_from_lidar_range(result, limits): return result",
    }.items():
        (peer / name).parent.mkdir(parents=True, exist_ok=True)
        (peer / name).write_text(text)
    path = tmp_path / "detector.json"
    arguments = ["bench", "detector", "--seconds", "0.1", "--threads", "1", "--json", str(path)]
    assert main([*arguments, "--peer", str(tmp_path)]) == 2
    assert "no checkout of PointPillars" in capsys.readouterr().err
    try:
        assert main([*arguments, "--peer", str(peer.parent)]) == 0
    finally:
        for name in [n for n in sys.modules if n.startswith("pointpillars")]:
            del sys.modules[name]
    result = json.loads(path.read_text())
    parts = ("before", "images", "proposals", "between", "refinement", "after")
    for engine in ("onnxruntime", "torch"):
        ms = result["ms"][engine]
        assert all(ms[p]["p50"] > 0 for p in parts)
        assert sum(ms[p]["min"] for p in parts) <= ms["total"]["min"] * 1.01
    ratio = (
        result["ms"]["pointpillars"]["total"]["p50"] / result["ms"]["onnxruntime"]["total"]["p50"]
    )
    assert result["times_faster"] == pytest.approx(ratio)
    assert result["met"]["times_faster"] == (ratio >= 3)
    assert "random weights" in result["peer"]


def test_voxels_take_points_in_order_until_they_are_full() -> None:
    voxelise = bench.load_benchmark("detector").voxelise
    points = np.array(
        [[0.1, 0.1, 0, 1], [1.2, 0.3, 0, 2], [0.2, 0.2, 0, 3], [0.3, 0.3, 0, 4], [9, 9, 0, 5]],
        np.float32,
    )
    span = np.array([0, 0, -1, 2, 2, 1], np.float32)
    made, cells, counts = voxelise(points, span, np.ones(3, np.float32), 2, 10)
    assert counts.tolist() == [2, 1] and cells.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert made[0, :, 3].tolist() == [1, 3] and made[1, :, 3].tolist() == [2, 0]
    assert len(voxelise(points, span, np.ones(3, np.float32), 2, 1)[0]) == 1
