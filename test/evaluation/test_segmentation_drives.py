import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.segmentation_drives import Averaging, score_drives
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.runtime.card import load_card

AVERAGING = (Averaging(2, 0.2), Averaging(mirrored=True))


def progress(total: int) -> tqdm:
    return tqdm(total=total, disable=True)


def test_all_conditions_and_sets_of_images_are_evaluated(tmp_path: Path) -> None:
    rig, card = load_rig(resolve_rig_path("simulation")), load_card("segmentation")
    assert card.path is not None
    other = load_card(shutil.copytree(card.path.parent, tmp_path / "other"))
    result = score_drives([card, other], rig, [10_003], 1, progress, averaging=AVERAGING)
    assert result["frames"] == 4
    rows = result["rows"]
    for images in ("both", "visible", "thermal"):
        np.testing.assert_equal(rows.pop(f"{other.source}, {images}"), rows[f"cmx, {images}"])
        for average in AVERAGING:
            for condition, scores in rows.pop(f"cmx, {average.title}, {images}").items():
                plain = rows[f"cmx, {images}"][condition]
                assert abs(scores["miou"] - plain["miou"]) < 0.15
                assert scores["confidence"]["brier"] != plain["confidence"]["brier"]
    assert set(rows) == {"cmx, both", "cmx, visible", "cmx, thermal"}
    assert len(result["image_ms"]) == 12 and all(t > 0 for t in result["image_ms"].values())
    for row in rows.values():
        assert set(row) == {"day", "night", "unlit", "fog"}
        assert all(0.2 < scores["miou"] <= 1.0 for scores in row.values())


def test_monte_carlo_dropout_needs_the_weights_of_a_network_for_two_images() -> None:
    with pytest.raises(UserError, match="architecture rgb_thermal_segmentation"):
        Averaging(2, 0.1).open_segmenter(load_card("image_detector"))
    with pytest.raises(UserError, match="needs torch weights"):
        Averaging(2, 0.1).open_segmenter(replace(load_card("segmentation"), weights=None))


def test_rig_without_thermal_camera_is_refused() -> None:
    rig = load_rig(resolve_rig_path("simulation"))
    rig = replace(rig, sensors={"camera_front": rig.sensors["camera_front"]})
    with pytest.raises(UserError, match="modality thermal"):
        score_drives([load_card("segmentation")], rig, [10_000], 1, progress)
