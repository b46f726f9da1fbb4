"""Every script in examples/ runs without arguments or sample data, and prints correct results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NUMBER = r"([\d.]+)"


def run_example(name: str, *arguments: str, folder: Path, path: str = "") -> str:
    """Run a script in `folder` and return its output. path: additional PYTHONPATH."""
    paths = [path, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    process = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """The numbers in all matches of a pattern with one group."""
    return [float(value) for value in re.findall(pattern, text)]


def test_every_example_is_listed_and_short() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"]({path.name})" in listed
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) >= 6
    for script in scripts:
        text = script.read_text()
        assert f"python examples/{script.name}" in text and f"def test_{script.stem}" in SOURCE
        assert len(text.splitlines()) <= 60


def test_detect_in_kitti_folder(tmp_path: Path) -> None:
    output = run_example("detect_in_kitti_folder.py", folder=tmp_path)
    counts = numbers(rf"synthetic street, frame \d+: {NUMBER} boxes in", output)
    assert len(counts) == 10 and min(counts) >= 5
    # The car ahead keeps its distance and lane: centre (14.0, -1.2, 0.76) m.
    ahead = re.findall(r"car +score 0\.\d+ +centre \( *(1[34]\.\d+), +(-1\.[12]\d),", output)
    assert len(ahead) >= 8


def test_detect_in_kitti_folder_of_real_frames(tmp_path: Path, shared_data: Path) -> None:
    folder = str(shared_data / "kitti" / "training")
    output = run_example("detect_in_kitti_folder.py", folder, folder=tmp_path)
    assert output.count("kitti training, frame") == 3 and "car" in output


def test_fuse_numpy_arrays(tmp_path: Path) -> None:
    output = run_example("fuse_numpy_arrays.py", folder=tmp_path)
    (line,) = (line for line in output.splitlines() if line.startswith("car at"))
    x, y, score = map(float, re.findall(r"-?\d+\.\d+", line))
    assert abs(x - 10.0) < 0.5 and abs(y) < 0.3 and score > 0.5
    assert numbers(rf"occupied cells: {NUMBER} of", output)[0] > 5


def test_read_bag(tmp_path: Path) -> None:
    output = run_example("read_bag.py", folder=tmp_path)
    assert "sensor lidar: lidar on /lidar/points" in output
    points = numbers(rf"frame \d: {NUMBER} points, images: camera \(400, 960, 3\)", output)
    assert len(points) == 3 and min(points) > 100_000
    assert output.count("missing: none") == 3 and "dropped" not in output


def test_evaluate_detector(tmp_path: Path) -> None:
    output = run_example("evaluate_detector.py", folder=tmp_path)
    assert "5 labelled frames, detector geometric" in output
    (recall,) = numbers(rf"recall at 1 m: {NUMBER} \(\d+/55\)", output)
    (precision,) = numbers(rf"precision at 1 m: {NUMBER} ", output)
    (cars,) = numbers(rf"AP car: {NUMBER} \(35 labels\)", output)
    assert recall > 0.7 and precision > 0.7 and cars > 80


def test_simulate_and_draw(tmp_path: Path) -> None:
    output = run_example("simulate_and_draw.py", "--out", "street.png", folder=tmp_path)
    assert "camera_front" in output and "lidar" in output and "thermal_front" in output
    found, labels = map(int, re.findall(r"labels with a box: (\d+)/(\d+)", output)[0])
    assert 0.5 * labels < found <= labels and labels > 5
    assert (tmp_path / "street.png").read_bytes().startswith(b"\x89PNG")


def test_occupancy_from_lidar(tmp_path: Path) -> None:
    output = run_example("occupancy_from_lidar.py", folder=tmp_path)
    known = [
        sum(map(float, areas)) for areas in re.findall(r"free (\d+) m2, occupied (\d+) m2", output)
    ]
    assert len(known) == 3 and known[0] > 300
    assert known == sorted(known)  # evidence accumulates while the vehicle moves


def test_run_network(tmp_path: Path) -> None:
    output = run_example("run_network.py", folder=tmp_path)
    assert output.startswith("near_field: ") and "evidence: shape (1, 6, 72, 72)" in output
    assert numbers(rf"median {NUMBER} ms", output)[0] > 0


def test_code_of_the_python_page(tmp_path: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "python_api.md").read_text()
    outputs = []
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        (tmp_path / "block.py").write_text(block)
        outputs.append(run_example(str(tmp_path / "block.py"), folder=tmp_path))
    dataset, configuration, arrays = outputs
    assert dataset.count(" boxes in ") == 3 and "  car 1.00 at (" in dataset
    assert configuration == "geometric 0.5\n"
    assert "missing: ['front']" in arrays and "fusion_detector OK ok" in arrays


@pytest.mark.parametrize("name", ["boxes_by_grid", "box_detector.detector:GridDetector"])
def test_plugin_detector_is_installed_and_selected_by_name(tmp_path: Path, name: str) -> None:
    source, site = tmp_path / "plugin_detector", tmp_path / "site"
    shutil.copytree(EXAMPLES / "plugin_detector", source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *options, str(source)], check=True, capture_output=True, timeout=240)
    output = run_example(
        "detect_in_kitti_folder.py", "--detector", name, folder=tmp_path, path=str(site)
    )
    counts = numbers(rf"frame \d+: {NUMBER} boxes", output)
    assert len(counts) == 10 and min(counts) >= 3
    assert set(re.findall(r"^ +(\w+) +score", output, re.M)) == {"car"}


SOURCE = Path(__file__).read_text()
