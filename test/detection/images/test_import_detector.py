"""Import of detection networks: all formats, wrong files, and the pipeline's stage that runs them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import TensorProto

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.decoders import decode, grid_cells
from multimodal_perception.detection.images.import_detector import DetectorImport, import_detector
from multimodal_perception.detection.images.imported import ImportedDetector
from multimodal_perception.detection.images.opening import open_image_detector
from multimodal_perception.evaluation.single_image import CAMERA, single_image_frame
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.settings import RuntimeConfig
from test.detection.images.test_decoders import LAYOUTS, as_list, nms_outputs
from test.image_models.networks import constant_network, rectangle_network

RUNTIME = RuntimeConfig(order=("onnxruntime",), device="cpu")
# The rectangle of the test image, and the image: 320 x 160 pixels, blue except for a red rectangle.
RECTANGLE = np.array([[60, 30, 200, 110]], np.float32)


def picture() -> np.ndarray:
    image = np.full((160, 320, 3), (10, 20, 60), np.uint8)
    image[30:110, 60:200] = (250, 40, 30)
    return image


def detector(card: ModelCard, **values: object) -> ImportedDetector:
    config = ImageDetectorConfig(model=str(card.path.parent), **values)  # type: ignore[arg-type, union-attr]
    found = open_image_detector(config, RUNTIME)
    assert isinstance(found, ImportedDetector)
    return found


def detected(card: ModelCard, **values: object) -> np.ndarray:
    frame = single_image_frame(np.ascontiguousarray(picture()[..., ::-1]))
    return detector(card, **values).detect(frame)[CAMERA].boxes


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("preprocessing", "channel", "threshold"),
    [
        ({"resize": "letterbox", "position": "centre"}, 0, 0.7),
        ({"resize": "letterbox", "position": "top_left", "order": "BGR"}, 2, 0.7),
        ({"resize": "stretch", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5)}, 0, 1.0),
    ],
)
def test_boxes_are_in_pixels_of_the_image_for_every_preprocessing(
    tmp_path: Path, layout: str, preprocessing: dict, channel: int, threshold: float
) -> None:
    file = rectangle_network(tmp_path / "a.onnx", (64, 96), layout, channel, threshold)
    request = DetectorImport(file, "nms", "coco", preprocessing=preprocessing)
    card = import_detector(request, picture(), tmp_path / "model")
    boxes = detected(card)
    assert len(boxes) == 1 and iou(boxes, RECTANGLE)[0, 0] > 0.9  # one pixel of the small input
    assert card.settings["class_map"]["car"] == "car" and card.classes[2] == "car"


def test_open_sizes_and_data_dependent_rows_become_static(tmp_path: Path) -> None:
    file = rectangle_network(tmp_path / "a.onnx", ("height", "width"), rows="count")
    with pytest.raises(
        UserError, match=r"--size HEIGHT WIDTH is required.*images \[1, 3, \?, \?\]"
    ):
        import_detector(DetectorImport(file, "nms", "coco"), picture(), tmp_path / "none")
    request = DetectorImport(file, "nms", "coco", size=(80, 160))
    card = import_detector(request, picture(), tmp_path / "model")
    assert card.inputs["images"].shape == (1, 3, 80, 160)
    assert card.outputs["boxes"].shape == (1, 300, 6)
    assert iou(detected(card), RECTANGLE)[0, 0] > 0.9
    dark = np.zeros((160, 320, 3), np.uint8)
    dark[:, :160] = 20  # not blank, but without bright pixels
    assert not len(detector(card).detect(single_image_frame(dark))[CAMERA])


def test_networks_that_normalise_get_the_bytes_of_the_image(tmp_path: Path) -> None:
    file = rectangle_network(
        tmp_path / "a.onnx", (80, 160), "NHWC", threshold=200.0, dtype=TensorProto.UINT8
    )
    card = import_detector(DetectorImport(file, "nms", "coco"), picture(), tmp_path / "model")
    assert card.inputs["images"].dtype == "uint8"
    assert iou(detected(card), RECTANGLE)[0, 0] > 0.9


def test_images_are_processed_in_batches_with_the_same_result(tmp_path: Path) -> None:
    rows = np.zeros((3, grid_cells((64, 96), (8, 16, 32)), 85), np.float32)
    rows[:, 40, :6] = 0.3, 0.4, 1.0, 1.2, 0.9, 0.95
    for batch, name in ((1, "one"), (3, "three")):
        file = constant_network(tmp_path / f"{name}.onnx", {"o": rows[:batch]}, (batch, 3, 64, 96))
        import_detector(DetectorImport(file, "yolox", "coco"), picture(), tmp_path / name)
    frame = single_image_frame(np.ascontiguousarray(picture()[..., ::-1]))
    names = [f"camera_{k}" for k in range(4)]
    frame = dataclasses.replace(
        frame,
        cameras={n: dataclasses.replace(frame.cameras[CAMERA], sensor=n) for n in names},
        intrinsics=dict.fromkeys(names, frame.intrinsics[CAMERA]),
        base_from_sensor=dict.fromkeys(names, frame.base_from_sensor[CAMERA]),
    )
    one, three = (detector(load_card(tmp_path / n)) for n in ("one", "three"))
    results = [d.detect(frame) for d in (one, three)]
    assert list(results[0]) == list(results[1]) == names
    for name in names:
        np.testing.assert_allclose(results[0][name].boxes, results[1][name].boxes)
    assert one.engine.timings.runs == 4 and three.engine.timings.runs == 2


def random_outputs(format_: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    unit = rng.uniform(0.1, 0.9, (1, 30, 4)).astype(np.float32)
    if format_ == "yolox":
        values = rng.normal(0, 1, (1, grid_cells((64, 96), (8, 16, 32)), 85)).astype(np.float32)
        values[..., 4:] = rng.uniform(0, 1, values[..., 4:].shape)
        return {"output": values}
    if format_ == "yolox decoded":
        values = random_outputs("yolox")["output"]
        values[..., :4] = rng.uniform(5, 60, values[..., :4].shape)
        return {"output": values}
    if format_ == "yolov8":
        values = rng.uniform(0, 1, (1, 84, 126)).astype(np.float32)
        values[:, :4] *= 60
        return {"output0": values}
    if format_ == "yolov5":
        return {"output0": np.ascontiguousarray(
            np.concatenate([random_outputs("yolov8")["output0"], np.full((1, 1, 126), 0.5)], 1)
            .transpose(0, 2, 1).astype(np.float32))}  # fmt: skip
    if format_ == "yolov10":
        rows = np.concatenate([40 * unit, unit[..., :1], np.full((1, 30, 1), 2)], 2)
        return {"output0": rows.astype(np.float32)}
    if format_ in ("detr", "rtdetr"):
        classes = 92 if format_ == "detr" else 80
        logits = rng.normal(0, 3, (1, 30, classes)).astype(np.float32)
        return {"logits": logits, "pred_boxes": unit}
    scores = rng.normal(0, 3, (1, 30, 81)).astype(np.float32)
    boxes = np.sort(rng.uniform(0, 1, (1, 30, 2, 2)), axis=2).reshape(1, 30, 4).astype(np.float32)
    return {"boxes": boxes, "scores": scores} | (
        {"priors": unit} if format_ == "ssd priors" else {}
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("yolox", {"format": "yolox"}),
        ("yolox decoded", {"format": "yolox", "decoded": True}),
        ("yolov8", {"format": "yolov8"}),
        ("yolov5", {"format": "yolov8", "channels_first": False, "objectness": True}),
        ("yolov10", {"format": "nms", "boxes": "xyxy"}),
        ("detr", {"format": "detr", "scores": "softmax", "background": "last"}),
        ("rtdetr", {"format": "detr", "scores": "sigmoid"}),
        ("ssd", {"format": "ssd", "decoded": True, "background": "first"}),
        ("ssd priors", {"format": "ssd", "background": "first"}),
    ],
)
def test_outputs_are_recognised_and_decoded(tmp_path: Path, kind: str, expected: dict) -> None:
    outputs = random_outputs(kind)
    file = constant_network(tmp_path / "a.onnx", outputs)
    format_ = {"yolov10": "yolov8", "yolov5": "yolov8", "rtdetr": "detr"}.get(kind, kind.split()[0])
    request = DetectorImport(file, format_, "coco")  # type: ignore[arg-type]
    card = import_detector(request, picture(), tmp_path / "model")
    found = card.settings["decoder"]
    assert {key: found.get(key) for key in expected} == expected
    assert len(card.classes) == (91 if kind == "detr" else 80)
    own = detector(card, min_score=0.3)
    boxes, scores, labels = decode(outputs, own._decoder, (64, 96), 0.3)
    assert len(boxes) and labels.max() < len(card.classes) and scores.max() <= 1.0
    frame = single_image_frame(np.ascontiguousarray(picture()[..., ::-1]))
    used = {k for k, n in enumerate(card.classes) if n in card.settings["class_map"]}
    assert len(own.detect(frame)[CAMERA]) <= sum(int(k) in used for k in labels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_networks_with_suppression_are_recognised(tmp_path: Path, layout: str) -> None:
    outputs, settings = nms_outputs(layout)
    names = {"b": "detection_boxes", "s": "detection_scores", "k": "detection_classes",
             "n": "num_detections"} if layout == "tensorflow" else {}  # fmt: skip
    outputs = {names.get(n, n): v for n, v in outputs.items()}
    file = constant_network(tmp_path / "a.onnx", outputs)
    options = {} if settings.first_class == 0 else {"first_class": 1}
    request = DetectorImport(file, "nms", "coco", decoder=options)
    card = import_detector(request, picture(), tmp_path / "model")
    found = as_list(decode(outputs, detector(card)._decoder, (64, 96), 0.3))
    roles = {role: names.get(n, n) for role, n in settings.outputs.items()}
    settings = dataclasses.replace(settings, outputs=roles)
    expected = as_list(decode(outputs, settings, (64, 96), 0.3))
    np.testing.assert_allclose(found, expected)


def test_priors_of_a_file_become_a_part_of_the_model(tmp_path: Path) -> None:
    outputs = random_outputs("ssd")
    outputs["boxes"] = np.random.default_rng(2).normal(0, 1, (1, 30, 4)).astype(np.float32)
    file = constant_network(tmp_path / "a.onnx", outputs)
    priors = random_outputs("ssd priors")["priors"][0]
    np.save(tmp_path / "priors.npy", priors)
    request = DetectorImport(file, "ssd", "coco", priors=tmp_path / "priors.npy")
    card = import_detector(request, picture(), tmp_path / "model")
    np.testing.assert_array_equal(
        detector(card).engine.run({"images": np.zeros((1, 3, 64, 96), np.float32)})["priors"][0],
        priors,
    )
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not an \.npy file with numbers"):
        import_detector(
            dataclasses.replace(request, priors=tmp_path / "bad.npy"), picture(), tmp_path / "x"
        )


def test_second_input_with_the_image_size_becomes_constant(tmp_path: Path) -> None:
    from onnx import helper

    from test.image_models.networks import save

    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])
    sizes = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2])
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["size"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["size", "size"], ["four"], axis=1),
        helper.make_node("Mul", ["unit", "four"], ["boxes"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["values", "zero"], ["scores"]),
        helper.make_node("Identity", ["numbers"], ["labels"]),
    ]
    constants = {"unit": np.array([[[0.25, 0.25, 0.75, 0.5]]], np.float32),
                 "values": np.array([[0.8]], np.float32), "nothing": np.zeros((), np.float32),
                 "numbers": np.array([[0]])}  # fmt: skip
    outputs = [helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 1]),
               helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 4]),
               helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1])]  # fmt: skip
    file = save(tmp_path / "a.onnx", nodes, [image, sizes], outputs, constants)
    request = DetectorImport(file, "nms", "coco", preprocessing={"resize": "stretch"})
    card = import_detector(request, picture(), tmp_path / "model")
    assert list(card.inputs) == ["images"]
    np.testing.assert_allclose(detected(card), [[80, 40, 240, 80]], atol=0.01)


WRONG = {"yolox": "yolov8", "yolov8": "yolox", "detr": "yolox", "ssd": "yolox", "nms": "yolox"}


@pytest.mark.parametrize("format_", WRONG)
def test_wrong_format_shows_the_outputs_of_the_file(tmp_path: Path, format_: str) -> None:
    file = constant_network(tmp_path / "a.onnx", random_outputs(WRONG[format_]))
    request = DetectorImport(file, format_, "coco")  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"(needs|classes).*the file has inputs images.*outputs output"
    ) as error:
        import_detector(request, picture(), tmp_path / "model")
    assert "64, 96" in str(error.value) and not (tmp_path / "model").exists()


def test_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    file = constant_network(tmp_path / "a.onnx", random_outputs("yolox"))
    names = tmp_path / "names.txt"
    names.write_text("car\nperson\n")
    with pytest.raises(UserError, match="2 classes, but the network has 80"):
        import_detector(DetectorImport(file, "yolox", str(names)), picture(), tmp_path / "model")


def test_own_classes_are_mapped_by_a_file(tmp_path: Path) -> None:
    file = rectangle_network(tmp_path / "a.onnx", (80, 160))
    classes = tmp_path / "classes.yaml"
    classes.write_text("tree: ignored\nbicycle: cyclist\nauto_rickshaw: van\n")
    card = import_detector(DetectorImport(file, "nms", str(classes)), picture(), tmp_path / "model")
    assert card.settings["class_map"] == {"bicycle": "cyclist", "auto_rickshaw": "van"}
    frame = single_image_frame(np.ascontiguousarray(picture()[..., ::-1]))
    found = detector(card).detect(frame)[CAMERA]
    assert [found.class_names[k] for k in found.labels] == ["van"]
    classes.write_text("car: spaceship\n")
    with pytest.raises(UserError, match="'spaceship' is not a class; allowed: vehicle, car"):
        import_detector(DetectorImport(file, "nms", str(classes)), picture(), tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"decoder": {"format": "nms", "outputs": {"predictions": "none"}}},
            "'none' is not an output",
        ),
        ({"decoder": {"format": "magic", "outputs": {}}}, "decoder.format: allowed: yolox"),
        ({"preprocessing": {"order": "GBR"}}, "preprocessing.order: allowed: RGB, BGR"),
        ({"class_map": {"car": "tank"}}, "class_map.car: 'tank'"),
        ({"class_map": {}}, "class_map: expected"),
        ({"score_thresholds": 0.2}, "score_thresholds: expected a score by class name"),
        ({"score_thresholds": {"tank": 0.2}}, "score_thresholds.tank: allowed: .*person"),
        ({"score_thresholds": {"person": 0.0}}, "score_thresholds.person: allowed: above 0"),
        ({"score_thresholds": {"person": True}}, "score_thresholds.person: allowed: above 0"),
    ],
)
def test_edited_cards_are_refused_with_the_key(tmp_path: Path, change: dict, message: str) -> None:
    file = rectangle_network(tmp_path / "a.onnx", (80, 160))
    card = import_detector(DetectorImport(file, "nms", "coco"), picture(), tmp_path / "model")
    edited = dataclasses.replace(card, settings={**card.settings, **change})
    with pytest.raises(UserError, match=message):
        ImportedDetector(ImageDetectorConfig(), RUNTIME, card=edited)
    with pytest.raises(UserError, match="architecture: allowed: imported_detector"):
        ImportedDetector(ImageDetectorConfig(model="image_detector"), RUNTIME)
    with pytest.raises(UserError, match=r"imported_detector\.model: missing"):
        ImportedDetector(ImageDetectorConfig(model=""), RUNTIME)


def test_classes_have_the_thresholds_of_the_card(tmp_path: Path) -> None:
    file = rectangle_network(tmp_path / "a.onnx", (80, 160))
    card = import_detector(DetectorImport(file, "nms", "coco"), picture(), tmp_path / "model")
    frame = single_image_frame(np.ascontiguousarray(picture()[..., ::-1]))
    (box,) = detector(card).detect(frame)[CAMERA].scores
    name = detector(card).class_names[int(detector(card).detect(frame)[CAMERA].labels[0])]
    for threshold, count in ((float(box) - 0.01, 1), (min(float(box) + 0.01, 1.0), 0)):
        edited = dataclasses.replace(
            card, settings={**card.settings, "score_thresholds": {name: threshold}}
        )
        own = ImportedDetector(ImageDetectorConfig(), RUNTIME, card=edited)
        assert len(own.detect(frame)[CAMERA].boxes) == count
    # A larger min_score raises the thresholds of all classes in proportion.
    assert own.score_thresholds.lowest(0.15) == pytest.approx(0.15)
    at = dict(zip(own.class_names, own.score_thresholds.at(0.15), strict=True))
    assert at[name] == pytest.approx(min(float(box) + 0.01, 1.0) / 2)


def test_command_writes_the_folder_and_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rectangle_network(tmp_path / "a.onnx", (80, 160))
    cv2.imwrite(str(tmp_path / "test.png"), picture()[..., ::-1])
    out = tmp_path / "model"
    command = ["import", "detector", str(file), "--format", "nms", "--classes", "coco"]
    assert main([*command, "--out", str(out), "--image", str(tmp_path / "test.png")]) == 0
    printed = capsys.readouterr().out
    assert "1 boxes in the test image of 320x160" in printed
    assert f"pipeline.imported_detector.model: {out}" in printed
    drawn = cv2.imread(str(out / "test_image.png"))
    assert drawn.shape == (160, 320, 3) and (drawn != picture()[..., ::-1]).any()
    assert main([*command, "--out", str(out)]) == 2  # the folder is not empty
    assert "is not an empty folder" in capsys.readouterr().err
    (tmp_path / "text.onnx").write_text("no network")
    command[2] = str(tmp_path / "text.onnx")
    assert main([*command, "--out", str(tmp_path / "other")]) == 2
    assert "not an ONNX file" in capsys.readouterr().err


def test_yolox_nano_finds_vehicles_in_a_street(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "yolox" / "yolox_nano.onnx"
    image = shared_data / "pandaset" / "pandaset__front_camera__1557539956450180.jpg"
    if not file.is_file() or not image.is_file():
        pytest.skip("needs ../shared/data/yolox and ../shared/data/pandaset")
    pixels = cv2.imread(str(image))
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    card = import_detector(DetectorImport(file, "yolox", "coco"), rgb, tmp_path / "model")
    assert card.settings["preprocessing"]["order"] == "BGR"
    found = detector(card).detect(single_image_frame(pixels))[CAMERA]
    names = [found.class_names[k] for k in found.labels]
    # By eye: a white car in front, one at the right edge, one behind it; 1920 x 1080 pixels.
    by_eye = np.array(
        [[748, 545, 1134, 856], [1597, 636, 1920, 1070], [1260, 533, 1722, 853]], np.float32
    )
    cars = found.boxes[[n == "car" for n in names]]
    assert (iou(by_eye, cars).max(axis=1) > 0.7).all()
    # Reference: the same network by OpenCV's resize and a plain loop over the cells.
    import onnxruntime

    scale = min(416 / 1080, 416 / 1920)
    canvas = np.full((416, 416, 3), 114, np.uint8)
    small = cv2.resize(pixels, (416, round(1080 * scale)), interpolation=cv2.INTER_AREA)
    canvas[: small.shape[0]] = small
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    raw = session.run(None, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    best, index = (0.0, None), 0
    for stride in (8, 16, 32):
        for y in range(416 // stride):
            for x in range(416 // stride):
                row, index = raw[index], index + 1
                if row[4] * row[5 + 2] > best[0]:  # 2: car
                    cx, cy = (row[0] + x) * stride, (row[1] + y) * stride
                    w, h = np.exp(row[2:4]) * stride
                    best = (
                        row[4] * row[7],
                        np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]),
                    )
    assert best[1] is not None
    np.testing.assert_allclose(found.scores[0], best[0], atol=1e-3)
    expected = np.clip(best[1] / scale, 0, (1920, 1080, 1920, 1080))
    np.testing.assert_allclose(found.boxes[0], expected, atol=0.5)
