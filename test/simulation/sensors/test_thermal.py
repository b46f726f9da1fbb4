"""Simulated thermal cameras."""

import numpy as np
import pytest

from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.thermal import SimulatedThermal
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES, Material
from multimodal_perception.simulation.world.meshes import cuboid
from multimodal_perception.simulation.world.scene import Scene
from multimodal_perception.simulation.world.scene_objects import scenery_object
from test.simulation.rigs import small_rig


def test_skin_is_warm_and_the_sky_is_cold():
    rig = small_rig(noise=False)
    sensor = rig.sensors["thermal"]
    camera = SimulatedThermal(sensor, sensor.intrinsics.camera_model())
    skin = scenery_object(cuboid((4, -0.5, 0), (4.2, 0.5, 2.5), Material.SKIN), "pedestrian")
    pose = sensor.base_from_sensor()
    dark = Conditions(sun_elevation=-30, air_temperature=285.0)
    image, truth = camera.render(
        Scene.from_objects([skin]), pose, dark, False, np.random.default_rng(0)
    )
    kelvin = image * 0.01
    person = truth.semantics == SEMANTIC_NAMES.index("pedestrian")
    assert 299 < kelvin[person].max() < 306  # skin at 305 K with an emissivity of 0.98
    assert kelvin[0, 40] < 280  # the sky
    assert truth.depth[32, 40] == pytest.approx(3.6, abs=1e-3)
