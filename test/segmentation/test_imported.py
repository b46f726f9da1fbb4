"""Import of segmentation networks: layouts, classes, preprocessing, and unsuitable files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.single_image import CAMERA, single_image_frame
from multimodal_perception.image_models.class_names import ADE20K_150, CITYSCAPES_19
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES
from multimodal_perception.segmentation.import_segmenter import SegmenterImport, import_segmenter
from multimodal_perception.segmentation.imported import ImportedSegmenter, ImportedSegmenterConfig
from test.image_models.networks import constant_network, save

RUNTIME = RuntimeConfig(order=("onnxruntime",), device="cpu")
ROAD, VEHICLE, SKY = (SEGMENTATION_CLASSES.index(n) for n in ("road", "vehicle", "sky"))


def scene() -> np.ndarray:
    """Sky above, road below, a red car at the left: 160 x 320 pixels, RGB."""
    image = np.zeros((160, 320, 3), np.uint8)
    image[:80, :, 2] = 250
    image[80:, :, 1] = 250
    image[60:120, 20:100] = (250, 0, 0)
    return image


def expected() -> np.ndarray:
    labels = np.full((160, 320), ROAD, np.uint8)
    labels[:80] = SKY
    labels[60:120, 20:100] = VEHICLE
    return labels


def colour_segmenter(path: Path, layout: str, output: str) -> Path:
    """A network with Cityscapes' classes: red pixels are car, green ones road, blue ones sky.

    output: NCHW or NHWC scores, or "labels" for class numbers [N, H, W].
    """
    shape = [1, 3, 80, 160] if layout == "NCHW" else [1, 80, 160, 3]
    scores = np.zeros((3, 19), np.float32)
    for channel, name in enumerate(("car", "road", "sky")):
        scores[channel, CITYSCAPES_19.index(name)] = 5.0
    nodes = [helper.make_node("Identity", ["images"], ["hwc"])]
    if layout == "NCHW":
        nodes = [helper.make_node("Transpose", ["images"], ["hwc"], perm=[0, 2, 3, 1])]
    nodes.append(helper.make_node("MatMul", ["hwc", "scores"], ["nhwc"]))
    if output == "NHWC":
        nodes.append(helper.make_node("Identity", ["nhwc"], ["out"]))
        kind, out_shape = TensorProto.FLOAT, [1, 80, 160, 19]
    elif output == "NCHW":
        nodes.append(helper.make_node("Transpose", ["nhwc"], ["out"], perm=[0, 3, 1, 2]))
        kind, out_shape = TensorProto.FLOAT, [1, 19, 80, 160]
    else:
        nodes.append(helper.make_node("ArgMax", ["nhwc"], ["out"], axis=3, keepdims=0))
        kind, out_shape = TensorProto.INT64, [1, 80, 160]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("out", kind, out_shape)]
    return save(path, nodes, inputs, outputs, {"scores": scores})


def segmenter(folder: Path, **values: object) -> ImportedSegmenter:
    return ImportedSegmenter(ImportedSegmenterConfig(model=str(folder), **values), RUNTIME)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("output", ["NCHW", "NHWC", "labels"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_masks_have_the_size_and_classes_of_the_image(
    tmp_path: Path, layout: str, output: str, resize: str
) -> None:
    file = colour_segmenter(tmp_path / "a.onnx", layout, output)
    request = SegmenterImport(file, "cityscapes", preprocessing={"resize": resize})
    card = import_segmenter(request, scene(), tmp_path / "model")
    assert card.settings["output"]["kind"] == ("labels" if output == "labels" else "scores")
    for size in ((160, 320), (240, 320)):  # the second one is letterboxed or stretched
        image, labels = scene(), expected()
        if size[0] == 240:
            image, labels = (np.concatenate([a, a[-80:]]) for a in (image, labels))
        frame = single_image_frame(np.ascontiguousarray(image[..., ::-1]))
        mask = segmenter(tmp_path / "model").segment(frame)[CAMERA]
        assert mask.labels.shape == size and mask.class_names == SEGMENTATION_CLASSES
        assert (mask.labels == labels).mean() > 0.96
        assert mask.logits is not None
        # The class scores cover the whole image: their argmax is the mask, in low resolution.
        rows = ((np.arange(mask.logits.shape[0]) + 0.5) * size[0] / mask.logits.shape[0]).astype(
            int
        )
        columns = ((np.arange(mask.logits.shape[1]) + 0.5) * 320 / mask.logits.shape[1]).astype(int)
        coarse = labels[np.ix_(rows, columns)]
        assert (mask.logits.argmax(axis=2) == coarse).mean() > 0.95


def test_ade20k_numbers_are_mapped_to_our_classes(tmp_path: Path) -> None:
    numbers = np.array([[[ADE20K_150.index(n) for n in ("road", "minibike", "sofa", "tree")]]])
    file = constant_network(tmp_path / "a.onnx", {"labels": numbers}, (1, 3, 32, 64))
    import_segmenter(SegmenterImport(file, "ade20k"), scene(), tmp_path / "model")
    frame = single_image_frame(np.ascontiguousarray(scene()[..., ::-1]))
    mask = segmenter(tmp_path / "model").segment(frame)[CAMERA]
    names = [SEGMENTATION_CLASSES[k] for k in mask.labels[80, [20, 120, 200, 300]]]
    assert names == ["road", "cyclist", "other", "vegetation"]


def test_unsuitable_files_and_classes_show_what_the_file_has(tmp_path: Path) -> None:
    file = constant_network(tmp_path / "a.onnx", {"o": np.zeros((1, 21, 8, 16), np.float32) + 0.5})
    with pytest.raises(UserError, match=r"C = 19 or 34.*outputs o \[1, 21, 8, 16\] float32"):
        import_segmenter(SegmenterImport(file, "cityscapes"), scene(), tmp_path / "model")
    names = tmp_path / "names.yaml"
    names.write_text("".join(f"c{k}: road\n" for k in range(21)))
    card = import_segmenter(SegmenterImport(file, str(names)), scene(), tmp_path / "model")
    assert set(card.settings["class_map"].values()) == {"road"}
    with pytest.raises(UserError, match="--output x: not an output"):
        import_segmenter(SegmenterImport(file, str(names), output="x"), scene(), tmp_path / "other")
    for change, message in (
        ({"output": {"output": "none"}}, "allowed: o"),
        ({"output": {"output": "o", "layout": "NHWC"}}, r"classes: 21, but the output is"),
        ({"output": {"output": "o", "kind": "labels", "layout": "NHW"}}, "NHW for"),
        ({"class_map": {"c1": "lava"}}, "class_map.c1: 'lava'"),
    ):
        edited = dataclasses.replace(card, settings={**card.settings, **change})
        with pytest.raises(UserError, match=message):
            ImportedSegmenter(ImportedSegmenterConfig(), RUNTIME, card=edited)
    with pytest.raises(UserError, match=r"imported_segmenter\.model: missing"):
        ImportedSegmenter(ImportedSegmenterConfig(), RUNTIME)


def test_images_in_turns_keep_the_stamps_of_their_images(tmp_path: Path) -> None:
    file = colour_segmenter(tmp_path / "a.onnx", "NCHW", "NCHW")
    import_segmenter(SegmenterImport(file, "cityscapes"), scene(), tmp_path / "model")
    frame = single_image_frame(np.ascontiguousarray(scene()[..., ::-1]))
    images = {
        f"c{k}": dataclasses.replace(frame.cameras[CAMERA], sensor=f"c{k}", stamp_ns=k)
        for k in range(3)
    }
    frame = dataclasses.replace(
        frame,
        stamp_ns=9,
        cameras=images,
        intrinsics=dict.fromkeys(images, frame.intrinsics[CAMERA]),
        base_from_sensor=dict.fromkeys(images, np.eye(4)),
    )
    stage = segmenter(tmp_path / "model", max_images_per_frame=2)
    rounds = [stage.segment(frame) for _ in range(3)]
    assert [sorted(r) for r in rounds] == [["c0", "c1"], ["c0", "c2"], ["c1", "c2"]]
    assert all(mask.stamp_ns == int(name[1]) for r in rounds for name, mask in r.items())
    assert stage.counts == {"c0.skipped": 1, "c1.skipped": 1, "c2.skipped": 1}
    blank = dataclasses.replace(images["c0"], pixels=np.zeros((160, 320, 3), np.uint8))
    assert not stage.segment(dataclasses.replace(frame, cameras={"c0": blank}))
    assert stage.counts["c0.blank"] == 1


def test_command_draws_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = colour_segmenter(tmp_path / "a.onnx", "NCHW", "NCHW")
    out = tmp_path / "model"
    command = ["import", "segmenter", str(file), "--classes", "cityscapes", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"pipeline.imported_segmenter.model: {out}" in printed and "car as vehicle" in printed
    assert (out / "test_image.png").stat().st_size > 1000
    command[4] = "mapillary"
    assert main([*command[:-1], str(tmp_path / "x")]) == 2
    assert "allowed: cityscapes, camvid, ade20k" in capsys.readouterr().err
