"""Reading of ONNX files of unknown origin: malformed, malicious and unusual files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from multimodal_perception.configuration import UserError
from multimodal_perception.image_models.importing import open_network, write_model_folder
from multimodal_perception.image_models.onnx_file import image_input, input_size, read_onnx
from multimodal_perception.image_models.preprocessing import Preprocessing
from multimodal_perception.image_models.test_run import run_once
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from test.image_models.networks import OPSET, constant_network, rectangle_network, save

BOXES = {"boxes": np.zeros((1, 5, 6), np.float32)}


def network(path: Path, **values: object) -> Path:
    return constant_network(path / "a.onnx", BOXES, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no nodes or no outputs"),
        (b"hello, this is a text file", "not an ONNX file"),
        (b"\x08" * 3000, "not an ONNX"),
        (b"\xff\xfe" * 100, "not an ONNX file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_onnx(tmp_path / "a.onnx")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_damaged_files_give_an_error_or_a_network(seed: int, changes: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = network(Path(folder))
        content = bytearray(path.read_bytes())
        rng = np.random.default_rng(seed)
        for position in rng.integers(0, len(content), changes):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(1, len(content) + 1)])
        try:
            opened = open_network(path, None, None, "")
            assert opened.size == opened.spec.shape[2:] or opened.layout == "NHWC"
        except UserError as error:
            assert str(path) in str(error)


def test_missing_files_folders_pipes_and_large_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.onnx", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match=str(path)):
            read_onnx(path)
    with pytest.raises(UserError, match="larger than 100 bytes"):
        read_onnx(network(tmp_path), max_bytes=100)


@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph", "function"])
def test_weights_in_other_files_are_refused_wherever_they_are(tmp_path: Path, place: str) -> None:
    path = network(tmp_path)
    model = onnx.load(path)
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    constant = helper.make_node("Constant", [], ["c"])
    attribute = constant.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "attribute":
        model.graph.node.append(constant)
    elif place == "subgraph":
        branch = helper.make_graph([constant], "branch", [], [])
        node = helper.make_node("If", ["condition"], [], then_branch=branch, else_branch=branch)
        model.graph.node.append(node)
    else:
        model.functions.append(helper.make_function("own", "f", [], ["c"], [constant], OPSET))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="external data"):
        read_onnx(path)


def test_errors_show_the_inputs_and_outputs_of_the_file(tmp_path: Path) -> None:
    path = network(tmp_path, shape=(1, 1, 28, 28))
    shown = (
        r"no input of an image.*images \[1, 1, 28, 28\] float32; outputs boxes \[1, 5, 6\] float32"
    )
    with pytest.raises(UserError, match=shown):
        open_network(path, None, None, "")
    path = network(tmp_path, shape=(1, 3, "h", "w"))
    with pytest.raises(UserError, match=r"--size HEIGHT WIDTH is required"):
        open_network(path, None, None, "")
    path = network(tmp_path)
    with pytest.raises(UserError, match=r"--size 64 64: the file has 64 96"):
        open_network(path, (64, 64), None, "")
    with pytest.raises(UserError, match=r"--batch 2: the file has a fixed batch size of 1"):
        open_network(path, None, 2, "")


def test_input_with_unknown_layout_can_be_stated(tmp_path: Path) -> None:
    path = rectangle_network(tmp_path / "a.onnx", ("h", "w"), "NHWC")
    file = read_onnx(path)
    tensor, layout = image_input(file)
    assert layout == "NHWC" and input_size(file, tensor, layout, (32, 64)) == (32, 64)
    with pytest.raises(UserError, match="no input of an image"):
        image_input(file, "NCHW")
    with pytest.raises(UserError, match="allowed: 8 to 4096"):
        input_size(file, tensor, layout, (32, 100_000))


def test_additional_inputs_are_refused(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96]),
        helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, 64, 96]),
    ]
    nodes = [helper.make_node("Mul", ["images", "mask"], ["o"])]
    outputs = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 3, 64, 96])]
    path = save(tmp_path / "a.onnx", nodes, inputs, outputs, {})
    with pytest.raises(UserError, match="input mask is not supported"):
        open_network(path, None, None, "")


def test_runs_are_limited_in_memory_and_time(tmp_path: Path) -> None:
    sizes = {"huge": np.array([1 << 20, 1 << 20])}
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["zeros", "mean"], ["o"]),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 96])]
    outputs = [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["a", "b"])]
    path = save(tmp_path / "a.onnx", nodes, inputs, outputs, sizes)
    opened = open_network(path, None, None, "")
    image = {"images": np.zeros((1, 3, 64, 96), np.float32)}
    with pytest.raises(UserError, match="the network cannot be run"):
        run_once(opened.file.to_bytes(), image, str(path))
    fast = open_network(network(tmp_path), None, None, "")
    with pytest.raises(UserError, match=r"longer than 0\.01 s"):
        run_once(fast.file.to_bytes(), image, str(path), timeout_s=0.01)


def test_folder_with_files_is_not_overwritten(tmp_path: Path) -> None:
    opened = open_network(network(tmp_path), None, None, "")
    card = ModelCard("m", "imported_detector", {"images": TensorSpec((1, 3, 64, 96))},
                     {"boxes": TensorSpec((1, 5, 6))}, "MIT")  # fmt: skip
    out = tmp_path / "out"
    assert write_model_folder(out, opened, card).path == out / "card.yaml"
    with pytest.raises(UserError, match="is not an empty folder"):
        write_model_folder(out, opened, card)
    with pytest.raises(UserError, match=r"a\.onnx"):  # a file in the place of the folder's parent
        write_model_folder(tmp_path / "a.onnx" / "out", opened, card)


@pytest.mark.parametrize(
    "values",
    [{"scale": 0.0}, {"std": (1.0, 0.0, 1.0)}, {"mean": (np.nan, 0.0, 0.0)}, {"fill": 300}],
)
def test_impossible_preprocessing_is_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=r"must be finite|fill: allowed"):
        Preprocessing(**values)
