from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.cli.evaluate.image_detector import print_tables
from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.image_detection_drives import (
    GroundProjectionScore,
    image_truth,
    score_drives,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.runtime.card import load_card
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES


@contextlib.contextmanager
def no_progress(total: int) -> Iterator[Any]:
    class Bar:
        def update(self) -> None: ...

    yield Bar()


def boxes(rows: list[tuple[str, float, float, float]], tracks: bool = True) -> Boxes3D:
    """Boxes of class, x, y and score."""
    return Boxes3D(
        0,
        "base_link",
        np.array([[x, y, 0.8, 4, 2, 1.6, 0] for _, x, y, _ in rows], np.float32).reshape(-1, 7),
        np.array([s for *_, s in rows], np.float32),
        np.array([CLASS_NAMES.index(n) for n, *_ in rows], np.int64),
        track_ids=np.arange(1, len(rows) + 1) if tracks else None,
    )


def test_ground_truth_boxes_enclose_the_visible_pixels() -> None:
    semantics = np.full((60, 80), SEMANTIC_NAMES.index("road"), np.uint8)
    instances = np.zeros((60, 80), np.int32)
    for track, name, (y1, y2, x1, x2) in (
        (9000, "van", (10, 40, 5, 50)),
        (7, "pedestrian", (5, 45, 40, 50)),
        (8, "cyclist", (0, 4, 0, 4)),
    ):
        semantics[y1:y2, x1:x2] = SEMANTIC_NAMES.index(name)
        instances[y1:y2, x1:x2] = track
    view = ImageTruth(np.zeros((60, 80), np.float32), semantics, instances)
    truth, tracks = image_truth(view, ("vehicle", "person", "cyclist"))
    assert tracks.tolist() == [7, 8, 9000] and truth.labels.tolist() == [1, 2, 0]
    assert truth.boxes[2].tolist() == [5, 10, 40, 40]  # limited by the person in front of it
    assert truth.evaluated.tolist() == [True, False, True]  # the cyclist is too small


def test_projected_boxes_match_one_object_of_their_class() -> None:
    score = GroundProjectionScore()
    labels = boxes(
        [("van", 10, 0, 1), ("pedestrian", 15, 3, 1), ("car", 25, 0, 1), ("car", 60, 0, 1)]
    )
    projected = boxes(
        [("car", 11, 1, 0.9), ("car", 10, 1, 0.8), ("car", 15, 3, 0.5), ("cyclist", 25, 0, 0.4)],
        tracks=False,
    )
    score.add(labels, np.array([1, 2, 4]), projected)  # the car at 25 m is not visible
    result = score.summary()
    assert result["all"] == {"labels": 2, "recall": 0.5}
    assert result["vehicle"]["recall"] == 1.0 and result["person"]["recall"] == 0.0
    assert result["10-20 m"]["labels"] == 2 and result["20-30 m"]["labels"] == 0
    assert result["boxes"]["count"] == 4 and result["boxes"]["precision"] == 0.25
    assert result["boxes"]["mean_score"] == pytest.approx(0.65)


def test_shipped_network_on_a_drive_and_rig_without_cameras(tmp_path: Path) -> None:
    rig = load_rig(resolve_rig_path("simulation"))
    options = ["--json", str(tmp_path / "r.json"), "--report", str(tmp_path / "page")]
    command = ["evaluate", "image-detector", "--seeds", "10005..10005", "--frames", "1"]
    assert main([*command, *options]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    page = (tmp_path / "page" / "index.html").read_text()
    figures = result["confidence"]["both"]["day"]
    for value in (figures["ece"], figures["brier"], figures["error_auroc"]):
        assert f">{value:.3f}<" in page
    for text in (
        "Reliability of the scores",
        "Confidence of the boxes",
        "projected onto the ground",
    ):
        assert text in page
    assert 1 <= page.count("data:image/jpeg") <= 4
    assert result["frames"] == 4 and set(result["rows"]) == {"both", "visible", "thermal"}
    day = result["rows"]["both"]["day"]
    assert day["vehicle"]["labels"] > 5 and day["vehicle"]["ap50"] > 0.3
    in_thermal = result["rows"]["thermal"]["day"]["vehicle"]["labels"]
    assert 0 < in_thermal <= day["vehicle"]["labels"]
    assert result["ground_projection"]["day"]["all"]["labels"] > 0
    lidar_only = Rig(**{**vars(rig), "sensors": {"lidar": rig.sensors["lidar"]}})
    with pytest.raises(UserError, match="camera"):
        score_drives(load_card("image_detector"), lidar_only, [1], 1, no_progress)


def test_ground_projection_is_printed_as_percentage_and_number_of_objects(
    capsys: pytest.CaptureFixture[str],
) -> None:
    projection = {
        "all": {"labels": 86, "recall": 0.55},
        "0-10 m": {"labels": 0, "recall": float("nan")},
        "boxes": {"count": 40, "precision": 0.67, "mean_score": 0.372},
    }
    averages = {"vehicle": {"ap": 0.302, "ap50": 0.581}}
    print_tables(
        {
            "frames": 10,
            "rows": {"both": {"day": averages}},
            "ground_projection": {"day": projection},
        }
    )
    output = capsys.readouterr().out
    cells = {
        key.strip(): value.strip()
        for key, value in re.findall(r"^│ ([^│]+)│ +([^│]+)│$", output, re.MULTILINE)
    }
    assert cells["all"] == "55 % of 86" and cells["0-10 m"] == "-"
    assert cells["precision"] == "67 % of 40" and cells["mean score"] == "0.37"
