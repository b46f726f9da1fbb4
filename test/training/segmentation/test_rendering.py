from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.training.segmentation import rendering as segmentation_frames
from multimodal_perception.training.segmentation.dataset import read_drives
from multimodal_perception.training.segmentation.rendering import (
    CAMERA,
    THERMAL,
    drive_conditions,
    drive_rig,
    render_drives,
)


def test_rendered_drives_are_read_and_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation_frames, "FRAMES_A_DRIVE", 1)
    paths = render_drives(tmp_path, 1)
    stamp = paths[0].stat().st_mtime_ns
    assert render_drives(tmp_path, 1) == paths and paths[0].stat().st_mtime_ns == stamp
    views, own = read_drives(paths)
    assert len(views) == len(own) == 1
    assert views[0].visible is not None and views[0].visible.shape == (288, 512, 3)
    assert 0.1 < views[0].seen.mean() < 1.0  # the thermal camera sees part of the view
    assert own[0].visible is None and own[0].seen.all()
    road = views[0].labels == 0
    assert road[-40:].mean() > 0.3


def test_no_two_drives_have_one_calibration_and_all_weathers_come() -> None:
    rigs = [drive_rig(np.random.default_rng(seed)) for seed in range(4)]
    assert len({r.sensors[THERMAL].extrinsics for r in rigs}) == 4
    assert len({r.sensors[CAMERA].intrinsics for r in rigs}) == 4
    words = {
        w.partition("=")[0] for s in range(60) for w in drive_conditions(np.random.default_rng(s))
    }
    assert words == {"night", "unlit", "low_sun", "fog", "rain"}


def test_evaluation_seeds_are_never_rendered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 to 10000"):
        render_drives(tmp_path, 10_001)
