"""Appearance of camera images in the profile realistic."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.simulation import simulation as simulation_module
from multimodal_perception.simulation.sensors.appearance import draw_look, varied_materials
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.materials import (
    MATERIAL_TABLE,
    Material,
    MaterialProperty,
)
from test.simulation.rigs import small_rig

LIDAR_AND_THERMAL = slice(int(MaterialProperty.REFLECTIVITY), None)


def test_materials_vary_in_colour_only() -> None:
    tables = [varied_materials(seed) for seed in range(20)]
    for table in tables:
        np.testing.assert_array_equal(
            table[:, LIDAR_AND_THERMAL], MATERIAL_TABLE[:, LIDAR_AND_THERMAL]
        )
        assert table[:, :3].min() > 0 and table[:, :3].max() <= 0.9
    colours = np.stack([t[Material.SLABS, :3] for t in tables])
    assert len(np.unique(colours, axis=0)) == 20
    assert len({float(t[Material.SLABS, MaterialProperty.TEXTURE]) for t in tables}) > 1
    np.testing.assert_array_equal(varied_materials(3), varied_materials(3))


def test_the_look_of_a_camera_depends_on_the_seed_and_its_name() -> None:
    first, same = draw_look(5, "front"), draw_look(5, "front")
    np.testing.assert_array_equal(first.curve, same.curve)
    assert (first.saturation, first.jpeg_quality) == (same.saturation, same.jpeg_quality)
    for other in (draw_look(5, "rear"), draw_look(6, "front")):
        assert not np.array_equal(first.curve, other.curve)


@pytest.mark.parametrize("seed", range(8))
def test_tone_curves_increase_and_keep_contrast(seed: int) -> None:
    curve = draw_look(seed, "front").curve.astype(int)
    assert (np.diff(curve, axis=0) >= 0).all()
    assert (curve[-1] - curve[0] > 150).all()


def test_only_the_colours_of_camera_images_change(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = small_rig()

    def observe() -> tuple:
        drive = Simulation("urban_street", rig, seed=4, frames=2, profile="realistic")
        observation = drive.observe(1)
        return observation.frame, observation.truth

    frame, truth = observe()
    monkeypatch.setattr(simulation_module, "draw_look", lambda seed, name: None)
    monkeypatch.setattr(simulation_module, "varied_materials", lambda seed: MATERIAL_TABLE)
    plain_frame, plain_truth = observe()
    for name, view in truth.views.items():
        np.testing.assert_array_equal(view.semantics, plain_truth.views[name].semantics)
        np.testing.assert_array_equal(view.instances, plain_truth.views[name].instances)
    for name, sweep in frame.lidars.items():
        np.testing.assert_array_equal(sweep.points, plain_frame.lidars[name].points)
    for name, image in frame.thermals.items():
        np.testing.assert_array_equal(image.pixels, plain_frame.thermals[name].pixels)
    assert not np.array_equal(frame.cameras["camera"].pixels, plain_frame.cameras["camera"].pixels)
