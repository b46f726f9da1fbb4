"""Options of the tasks that compare detectors on simulated drives."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from multimodal_perception.cli.drive_options import add_drive_arguments, rig_of
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.detector_drives import drives


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_drive_arguments(parser, "10000")
    return parser.parse_args(words)


@pytest.mark.parametrize(("words", "rings"), [((), 64), (("--lidar", "vlp16"), 16)])
def test_another_lidar_has_its_own_rings(words: tuple[str, ...], rings: int) -> None:
    (drive,) = drives([10_000], 1, 1, ["day"])
    simulation = drive.plan(rig_of(arguments(*words))).simulation()
    told = simulation[0].lidars["lidar"].rings
    assert told is not None and told.max() < rings
    assert np.unique(told).size > rings // 2  # the highest of an HDL-64E or VLP-16 meet the sky


def test_an_unknown_lidar_is_named_with_those_there_are() -> None:
    (drive,) = drives([10_000], 1, 1, ["day"])
    with pytest.raises(UserError, match=r"lidar.*model.*hdl64"):
        drive.plan(rig_of(arguments("--lidar", "hdl128"))).simulation()
