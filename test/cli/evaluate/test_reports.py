"""Reports, criteria and comparison, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.synthetic import SyntheticDataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of three frames of the synthetic street, and a report and a result of it."""
    path = tmp_path_factory.mktemp("report")
    street = SyntheticDataset()
    write_bag([street[k] for k in range(3)], street.rig, path / "street")
    outputs = ["--report", str(path / "page"), "--json", str(path / "result.json")]
    assert main([*detections(path), *outputs]) == 0
    return path


def detections(folder: Path) -> list[str]:
    """The command that evaluates the bag."""
    options = ["--root", str(folder / "street"), "--detector", "geometric", "--repeats", "1"]
    return ["evaluate", "detections", *options]


def test_a_report_shows_tables_charts_and_the_worst_frames(folder: Path) -> None:
    page = (folder / "page" / "index.html").read_text()
    for text in (
        "Detection: bag street",
        "Precision and recall by class",
        "Reliability of the scores",
        "AP by class and distance",
        "Confusion of boxes",
        "Latency of the pipeline",
        "By distance",
        "worst frames",
        "false boxes count all around the vehicle",
        "detector: geometric",
    ):
        assert text in page, text
    assert 1 <= page.count("data:image/jpeg") <= 10
    result = json.loads((folder / "result.json").read_text())
    assert f"{result['nuscenes']['map']:.3f}" in page
    assert result["nuscenes"]["curves"] and result["nuscenes"]["confusion"]["counts"]
    assert len(result["frame_ms"]) == 3


def test_criteria_set_the_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    criteria = folder / "criteria.yaml"
    criteria.write_text("criteria:\n  - {figure: recall_1m, class: car, min: 0.5}\n")
    assert main([*detections(folder), "--criteria", str(criteria)]) == 0
    assert "pass" in capsys.readouterr().out
    criteria.write_text(
        "criteria:\n  - {figure: map, min: 0.1}\n"
        "  - {figure: ap, class: car, distance: 0-15, min: 1.1}\n"
    )
    page = folder / "failed"
    assert main([*detections(folder), "--criteria", str(criteria), "--report", str(page)]) == 1
    output = capsys.readouterr().out
    assert "pass" in output and "FAIL" in output
    text = (page / "index.html").read_text()
    assert 'class="pass"' in text and 'class="fail"' in text


def test_two_results_are_shown_side_by_side(folder: Path) -> None:
    other = json.loads((folder / "result.json").read_text())
    other["nuscenes"]["map"] -= 0.25
    (folder / "other.json").write_text(json.dumps(other))
    arguments = ["--compare", str(folder / "other.json"), "--report", str(folder / "both")]
    assert main([*detections(folder), *arguments]) == 0
    page = (folder / "both" / "index.html").read_text()
    assert '<th scope="col">difference</th>' in page and "<td>0.250</td>" in page
    assert "dashed: other" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "missing.json", "--report", "x"], "missing.json"),
        (["--criteria", "missing.yaml"], "missing.yaml"),
        (["--executor", "slurm"], "--executor"),
    ],
)
def test_wrong_options_are_found_before_the_evaluation(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    roots = ["--root", "synthetic", str(tmp_path)]
    assert main(["evaluate", "detections", *roots, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_comparison_that_is_no_result_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ("[]", "{"):
        (folder / "wrong.json").write_text(content)
        arguments = ["--compare", str(folder / "wrong.json"), "--report", str(folder / "x")]
        assert main([*detections(folder), *arguments]) == 2
        assert "wrong.json" in capsys.readouterr().err


def test_image_detection_of_labelled_images_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), rng.integers(0, 255, (90, 160, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 160, "height": 90}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 60, 50], "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "car"}],
    }
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (tmp_path / "criteria.yaml").write_text(
        "criteria:\n  - {figure: ap50, class: vehicle, at: rows.image_detector, min: 0.9}\n"
    )
    root = ["--dataset", "coco", "--root", str(tmp_path), "--min-score", "0.02"]
    command = ["evaluate", "image-detector", *root, "--json", str(tmp_path / "r.json")]
    command += ["--criteria", str(tmp_path / "criteria.yaml")]
    assert main([*command, "--report", str(tmp_path / "first")]) == 1
    page = (tmp_path / "first" / "index.html").read_text()
    assert "1 missed" in page and page.count("data:image/jpeg") == 1 and "fail" in page
    other = ["--compare", str(tmp_path / "r.json"), "--report", str(tmp_path / "second")]
    assert main(["evaluate", "image-detector", *root, *other]) == 0
    assert "other: image_detector" in (tmp_path / "second" / "index.html").read_text()
    assert main(["evaluate", "image-detector", "--compare", "image_detector"]) == 2
    assert "--compare image_detector: model cards need --dataset" in capsys.readouterr().err


def test_segmentation_of_labelled_images_has_a_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        image = rng.integers(0, 255, (90, 160, 3), np.uint8)
        for kind, pixels in (("images", image), ("labels", image[..., 0] % 12)):
            (tmp_path / "camvid" / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "camvid" / kind / f"{name}.png"), pixels)
    root = ["--dataset", "camvid", "--root", str(tmp_path / "camvid")]
    first = [*root, "--json", str(tmp_path / "r.json"), "--report", str(tmp_path / "first")]
    assert main(["evaluate", "segmentation", *first]) == 0
    page = (tmp_path / "first" / "index.html").read_text()
    assert "Confusion of pixels" in page and page.count("data:image/jpeg") == 2
    second = [*root, "--compare", str(tmp_path / "r.json"), "--report", str(tmp_path / "second")]
    assert main(["evaluate", "segmentation", *second]) == 0
    assert "other: segmentation" in (tmp_path / "second" / "index.html").read_text()
