from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.training.segmentation.dataset import read_drives
from multimodal_perception.training.segmentation.rendering import (
    CAMERA,
    THERMAL,
    drive_conditions,
    drive_rig,
    render_drives,
)


def test_rendered_drives_are_readable_and_not_rendered_again(tmp_path: Path) -> None:
    paths = render_drives(tmp_path, [0], frames=1)
    stamp = paths[0].stat().st_mtime_ns
    assert render_drives(tmp_path, [0], frames=1) == paths and paths[0].stat().st_mtime_ns == stamp
    views, thermal_views = read_drives(paths)
    assert len(views) == len(thermal_views) == 1
    assert views[0].visible is not None and views[0].visible.shape == (288, 512, 3)
    assert 0.1 < views[0].thermal_mask.mean() < 1.0  # the thermal camera covers part of the view
    assert thermal_views[0].visible is None and thermal_views[0].thermal_mask.all()
    road = views[0].labels == 0
    assert road[-40:].mean() > 0.3


def test_drives_differ_in_calibration_and_cover_all_conditions() -> None:
    rigs = [drive_rig(np.random.default_rng(seed)) for seed in range(4)]
    assert len({r.sensors[THERMAL].extrinsics for r in rigs}) == 4
    assert len({r.sensors[CAMERA].intrinsics for r in rigs}) == 4
    conditions = {
        w.partition("=")[0] for s in range(60) for w in drive_conditions(np.random.default_rng(s))
    }
    assert conditions == {"night", "unlit", "sun_glare", "fog", "rain"}


def test_evaluation_seeds_are_never_rendered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 to 9999"):
        render_drives(tmp_path, [10_000])
