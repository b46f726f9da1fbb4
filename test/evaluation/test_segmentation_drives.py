import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.segmentation_drives import score_drives
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.runtime.card import load_card


def progress(total: int) -> tqdm:
    return tqdm(total=total, disable=True)


def test_all_conditions_and_sets_of_images_are_evaluated(tmp_path: Path) -> None:
    rig, card = load_rig(resolve_rig_path("simulation")), load_card("segmentation")
    assert card.path is not None
    other = load_card(shutil.copytree(card.path.parent, tmp_path / "other"))
    result = score_drives([card, other], rig, [10_003], 1, progress)
    assert result["frames"] == 4
    rows = result["rows"]
    for images in ("both", "visible", "thermal"):
        np.testing.assert_equal(rows.pop(f"{other.source}, {images}"), rows[f"cmx, {images}"])
    assert set(rows) == {"cmx, both", "cmx, visible", "cmx, thermal"}
    for row in rows.values():
        assert set(row) == {"day", "night", "unlit", "fog"}
        assert all(0.2 < scores["miou"] <= 1.0 for scores in row.values())


def test_rig_without_thermal_camera_is_refused() -> None:
    rig = load_rig(resolve_rig_path("simulation"))
    rig = replace(rig, sensors={"camera_front": rig.sensors["camera_front"]})
    with pytest.raises(UserError, match="modality thermal"):
        score_drives([load_card("segmentation")], rig, [10_000], 1, progress)
