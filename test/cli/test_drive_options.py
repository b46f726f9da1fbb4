"""Options of the commands that evaluate detectors on simulated drives."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from multimodal_perception.cli.drive_options import add_drive_arguments, load_requested_rig
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.detector_drives import plan_drives


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_drive_arguments(parser, "10000")
    return parser.parse_args(words)


@pytest.mark.parametrize(("words", "rings"), [((), 64), (("--lidar", "vlp16"), 16)])
def test_lidar_option_changes_the_number_of_rings(words: tuple[str, ...], rings: int) -> None:
    (drive,) = plan_drives([10_000], 1, 1, ["day"])
    simulation = drive.plan(load_requested_rig(arguments(*words))).simulation()
    ring_indices = simulation[0].lidars["lidar"].rings
    assert ring_indices is not None and ring_indices.max() < rings
    # The upper rings of an HDL-64E or VLP-16 have no returns from the sky.
    assert np.unique(ring_indices).size > rings // 2


def test_unknown_lidar_is_refused_with_the_allowed_models() -> None:
    (drive,) = plan_drives([10_000], 1, 1, ["day"])
    with pytest.raises(UserError, match=r"lidar.*model.*hdl64"):
        drive.plan(load_requested_rig(arguments("--lidar", "hdl128"))).simulation()
