"""`bench` writes what it prints; what no peer is needed for holds without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from multimodal_perception.cli import main
from multimodal_perception.commands import bench


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
