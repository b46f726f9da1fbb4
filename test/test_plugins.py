"""User-defined stages by entry point and by package.module:Class, in the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from multimodal_perception.configuration import UserError, build
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline

EXAMPLE = Path(__file__).parent / "example_plugin"
ENTRY_POINTS = """
[multimodal_perception.detectors]
nearest = example_stages:NearestPointDetector
broken = no_such_module:Detector
[multimodal_perception.image_detectors]
empty = example_stages:EmptyImageDetector
[multimodal_perception.segmenters]
road = example_stages:RoadSegmenter
[multimodal_perception.occupancy_mappers]
free = example_stages:FreeMapper
"""


def install_example(folder: Path) -> list[str]:
    """Write the metadata of an installed distribution; returns the folders for sys.path."""
    metadata = folder / "example_stages-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: example-stages\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return [str(folder), str(EXAMPLE)]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for folder in install_example(tmp_path / "site"):
        monkeypatch.syspath_prepend(folder)
    yield
    sys.modules.pop("example_stages", None)


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticDataset(frames=1, rings=16, columns=450)[0]


@pytest.mark.parametrize(
    ("detector", "segmenter", "image_detector", "occupancy"),
    [
        ("nearest", "road", "empty", "free"),
        (
            "example_stages:NearestPointDetector",
            "example_stages:RoadSegmenter",
            "example_stages:EmptyImageDetector",
            "example_stages:FreeMapper",
        ),
    ],
)
def test_all_stages_can_be_user_defined(
    installed: None,
    frame: SensorFrame,
    tmp_path: Path,
    detector: str,
    segmenter: str,
    image_detector: str,
    occupancy: str,
) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("detector: {size: 2.5}\noccupancy: {cells: 6}\n")
    values = {
        "detector": detector,
        "segmenter": segmenter,
        "image_detector": image_detector,
        "occupancy": occupancy,
        "plugin_options": str(options),
    }
    pipeline = build_pipeline(build(PipelineConfig, values, "test"))
    perception = pipeline.process(frame)
    assert pipeline.detector.name == "nearest_point"
    assert perception.boxes.boxes[:, 3].tolist() == [2.5]
    assert set(perception.segmentations) == set(frame.cameras)
    assert perception.boxes2d == {}
    assert perception.occupancy is not None and perception.occupancy.free.shape == (6, 6)
    assert not pipeline.counts


def test_an_unknown_name_is_refused_with_the_installed_entry_points(installed: None) -> None:
    with pytest.raises(
        UserError,
        match=r"pipeline.yaml: detector: 'magic' is not known; allowed: auto, geometric, fusion;"
        r" installed entry points \(multimodal_perception.detectors\): broken, nearest;"
        r" or package.module:Class",
    ):
        build(PipelineConfig, {"detector": "magic"}, "pipeline.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "pipeline.detector: broken: cannot import: ModuleNotFoundError"),
        ("no.such.module:Detector", "cannot import: ModuleNotFoundError"),
        ("example_stages:NoSuchClass", "cannot import: AttributeError.*NoSuchClass"),
        (
            "example_stages:IncompleteDetector",
            r"IncompleteDetector does not implement multimodal_perception.stages.Detector:"
            r" missing prepare, uses_masks, uses_proposals",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(installed: None, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_pipeline(build(PipelineConfig, {"detector": name}, "test"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detector: {sise: 1.0}", "TypeError.*sise"),
        ("detector: {size: -1.0}", "pipeline.detector: nearest: ValueError: size must be above 0"),
        ("detectors: {size: 1.0}", "options.yaml: detectors: unknown key; allowed: detector"),
        ("detector: 1.0", "options.yaml: detector: expected a mapping"),
        ("[1]", "options.yaml: expected a mapping"),
    ],
)
def test_wrong_options_are_refused(
    installed: None, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(text)
    values = {"detector": "nearest", "plugin_options": str(path)}
    with pytest.raises(UserError, match=message):
        build_pipeline(build(PipelineConfig, values, "test"))


def test_an_options_file_that_does_not_exist_is_named(installed: None) -> None:
    values = {"detector": "nearest", "plugin_options": "/no/such/options.yaml"}
    with pytest.raises(UserError, match=r"/no/such/options\.yaml"):
        build_pipeline(build(PipelineConfig, values, "test"))
