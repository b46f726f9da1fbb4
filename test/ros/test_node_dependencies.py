"""The node runs its networks without the packages of all other roles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.extras import EXTRAS
from multimodal_perception.simulation.simulation import Observation

pytestmark = pytest.mark.live

FOLDER = Path(__file__).resolve().parent.parent / "absent_modules"
OTHERS = ("pandas", "tensorrt", "tensorrt_rtx", "pycocotools", "mkdocs", "rich", "tqdm", "pytest")
TOPICS = {
    "perception/objects": "vision_msgs/msg/Detection3DArray",
    "perception/boxes2d/camera_front": "vision_msgs/msg/Detection2DArray",
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_node_needs_no_package_of_another_role(
    engine: str,
    start_node: Any,
    observation: Observation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = {m for extra in EXTRAS for m in extra.packages if m != engine}
    monkeypatch.setenv("ABSENT_MODULES", " ".join(sorted(absent | {*OTHERS})))
    paths = [str(FOLDER), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in paths if p))
    settings = {
        "pipeline.detector": "geometric",
        "pipeline.image_detector": "rgb_thermal",
        "pipeline.runtime.order": f"[{engine}]",
        "pipeline.runtime.precision": "fp32",
    }
    client = start_node(settings, TOPICS)
    received = client.received
    for topic in TOPICS:
        client.send_until(observation.frame, lambda topic=topic: received[topic])
