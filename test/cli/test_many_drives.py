"""Commands on many drives: the same results with every number of workers and every executor."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.cli.inputs import drive_names
from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.synthetic import SyntheticDataset


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short bags of different parts of the synthetic street, and a broken one."""
    folder = tmp_path_factory.mktemp("drives")
    street = SyntheticDataset()
    for name, frames in (("a", (0, 1)), ("b", (4, 5, 6)), ("c", (8,))):
        write_bag([street[k] for k in frames], street.rig, folder / name)
    shutil.copytree(folder / "a", folder / "broken")
    for path in (folder / "broken").glob("*.db3"):
        path.write_bytes(b"no database")
    return folder


@pytest.fixture(scope="module")
def one_worker(
    drives: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, str]:
    """The result of one worker, the folder of its finished drives, and what it printed as errors."""
    out = tmp_path_factory.mktemp("one") / "one.json"
    with contextlib.redirect_stderr(io.StringIO()) as error:
        status, result = evaluate(drives, out)
    assert status == 1  # the broken bag
    return result, out.with_suffix(".parts"), error.getvalue()


def evaluate(drives: Path, out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    arguments = ["--root", str(drives), "--detector", "geometric", "--repeats", "1"]
    arguments += ["--json", str(out), "--resume", str(out.with_suffix(".parts")), *options]
    status = main(["evaluate", "detections", *arguments])
    result = json.loads(out.read_text())
    for name in ("latency_ms", "stage_ms", "frame_ms"):
        del result[name]
    return status, result


def test_results_do_not_depend_on_the_number_of_workers(
    drives: Path, tmp_path: Path, one_worker: tuple[dict[str, Any], Path, str]
) -> None:
    one, parts, error = one_worker
    assert f"failed: {drives / 'broken'}" in error and "1 of 4 drives failed" in error
    assert [d["frames"] for d in one["drives"]] == [2, 3, 1] and one["frames"] == 6
    assert evaluate(drives, tmp_path / "two.json", "--workers", "2") == (1, one)
    # The finished drives are taken from the folder of the first run.
    resumed = ["--resume", str(parts)]
    assert evaluate(drives, tmp_path / "three.json", *resumed) == (1, one)


def test_a_ray_cluster_gives_the_same_results(
    drives: Path, tmp_path: Path, one_worker: tuple[dict[str, Any], Path, str]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed here")
    one = one_worker[0]
    options = ["--executor", "ray", "--workers", "2"]
    assert evaluate(drives, tmp_path / "ray.json", *options) == (1, one)


def test_several_drives_become_several_bags(
    drives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bags"
    arguments = ["convert", "--root", str(drives), "--out", str(out), "--storage", "mcap"]
    arguments += ["--resume", str(tmp_path / "parts")]
    assert main(arguments) == 1
    assert "1 of 4 drives failed" in capsys.readouterr().err
    assert {p.name for p in out.iterdir() if not p.name.endswith(".partial")} == {"a", "b", "c"}
    converted, original = (open_dataset(p / "b") for p in (out, drives))
    assert len(converted) == len(original) == 3
    np.testing.assert_allclose(
        converted[1].points_in_base(), original[1].points_in_base(), atol=1e-4
    )
    # An interrupted conversion leaves a partial bag, and the same command completes it.
    shutil.rmtree(out / "c")
    (out / "c.partial").mkdir()
    shutil.rmtree(tmp_path / "parts")
    shutil.rmtree(out / "a")
    shutil.rmtree(out / "b")
    assert main(arguments) == 1
    assert len(open_dataset(out / "c")) == 1 and not (out / "c.partial").exists()


def test_several_scenarios_and_seeds_are_drives_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from multimodal_perception.rig import dump_rig, load_rig, resolve_rig_path

    rig = load_rig(resolve_rig_path("simulation"))
    name = next(n for n in rig.sensors if n.startswith("front_left"))
    small = replace(rig, sensors={name: rig.sensors[name]})
    (tmp_path / "rig.yaml").write_text(dump_rig(small))
    out = tmp_path / "out"
    arguments = ["simulate", "--scenario", "urban_street", "--seeds", "5..6", "--frames", "2"]
    arguments += ["--rig", str(tmp_path / "rig.yaml"), "--profile", "basic", "--out", str(out)]
    assert main([*arguments, "--workers", "1", "--format", "dataset"]) == 0
    assert {p.name for p in out.iterdir()} == {"urban_street-5", "urban_street-6"}
    assert "2 drives, 4 frames" in capsys.readouterr().out
    assert len(open_dataset(out / "urban_street-6")) == 2


def test_names_of_drives_are_short_and_different() -> None:
    assert drive_names(["/data/a/bag", "/data/b/bag"]) == ["a-bag", "b-bag"]
    assert drive_names(["/data/a", "x y/b"]) == ["a", "b"]
    assert drive_names(["simulated:highway,seed=3", "synthetic"]) == [
        "simulated_highway_seed_3",
        "synthetic",
    ]
    assert len(set(drive_names(["/a", "/a", "/b"]))) == 3
