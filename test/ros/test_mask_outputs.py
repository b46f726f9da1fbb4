"""Masks, their pictures and fused images over DDS: a camera and a thermal camera in, a node in its own
process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from multimodal_perception.messages import decoders
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.rig import Rig
from multimodal_perception.ros.fused_outputs import fused_topics
from multimodal_perception.ros.mask_outputs import mask_topics
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.simulation.simulation import Observation


def test_masks_and_pictures_carry_the_stamp_frame_and_size_of_the_image(
    talk: Callable[..., Any], image_rig: Rig, seen: Observation
) -> None:
    settings = {"pipeline.segmenter": "rgbx", "pipeline.image_fusion.model": "image_fusion"}
    vehicle = talk(settings, {**mask_topics(image_rig), **fused_topics(image_rig)})
    got = vehicle.got
    camera, colour = (
        got["perception/segmentation/camera_front"],
        got["perception/segmentation/camera_front/colour"],
    )
    fused = got["perception/fused/camera_front"]
    sent = vehicle.answered(seen.frame, lambda: camera and colour and fused)
    mask = camera[0]
    stamp_ns = decoders.stamp_ns_of(mask)
    assert stamp_ns in sent and mask.encoding == "mono8"
    assert mask.header.frame_id == "camera_front_optical"
    labels = image_from_message(mask, "camera_front", stamp_ns).pixels
    truth = labels_from_semantics(seen.truth.views["camera_front"].semantics)
    assert labels.shape == truth.shape and (labels == truth).mean() > 0.8
    assert colour[0].encoding == "rgb8" and (colour[0].height, colour[0].width) == truth.shape
    assert np.array(colour[0].data).std() > 10
    picture = fused[0]
    assert decoders.stamp_ns_of(picture) in sent and picture.encoding == "rgb8"
    assert picture.header.frame_id == "camera_front_optical"
    assert (picture.height, picture.width) == truth.shape
    own = seen.frame.cameras["camera_front"].rgb()
    pixels = image_from_message(picture, "camera_front", stamp_ns).rgb()
    assert 2 < np.abs(pixels.astype(int) - own).mean() < 100
    # The camera falls silent: the thermal camera speaks, of masks in its own view.
    silent = replace(seen.frame, cameras={})
    vehicle.answered(silent, lambda: got["perception/segmentation/thermal_front"])
    assert got["perception/segmentation/thermal_front"][0].height == 256

    def passed_on() -> bool:
        pixels = image_from_message(fused[-1], "camera_front", 0).rgb()
        return pixels.shape == own.shape and bool((pixels[..., 0] == pixels[..., 2]).all())

    vehicle.answered(silent, passed_on)
    assert fused[-1].header.frame_id == "camera_front_optical"
