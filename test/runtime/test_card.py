"""Model cards: writing and reading give the same card; errors name the file and key."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from multimodal_perception.configuration import ConfigurationError, UserError
from multimodal_perception.runtime.card import (
    ModelCard,
    ModelIntegrityError,
    TensorSpec,
    Training,
    load_card,
    shipped_cards,
    write_card,
)
from test.runtime import small_models as models

FULL = {
    "settings": {"channels": 32, "heads": [4, 4], "nested": {"rate": 0.5}},
    "classes": ("car", "pedestrian"),
    "normalisation": {"image": {"mean": [0.5, 0.5, 0.5]}},
    "range": (-50.0, -50.0, -3.0, 50.0, 50.0, 5.0),
    "training": Training("multimodal-perception train recipe bev_fusion", 7, 1.5, "2 cores"),
    "figures": {"map": 0.25, "by_class": {"car": 0.4}},
    "notes": "Two lines:\n# not a comment",
}


def test_written_card_is_read_back_unchanged(tmp_path: Path) -> None:
    card = models.save(tmp_path / "model", models.scatter_model(), **FULL)
    assert load_card(tmp_path / "model") == card
    assert load_card(tmp_path / "model" / "card.yaml") == card
    assert list(card.inputs) == list(models.INPUTS)
    assert card.read_file("onnx") == (tmp_path / "model" / "model.onnx").read_bytes()
    assert "path" not in yaml.safe_load(card.path.read_text())


def test_external_data_is_refused(tmp_path: Path) -> None:
    """The hash of the ONNX file does not cover tensors in other files."""
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
            [onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")],
        )
    )
    model.metadata_props.add(key="location", value="not a tensor")
    card = ModelCard("m", "m", {"x": TensorSpec((4,))}, {"y": TensorSpec((4,))}, "MIT")
    onnx.save(model, tmp_path / "model.onnx")
    assert write_card(tmp_path, card, onnx="model.onnx").read_file("onnx")
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with pytest.raises(ModelIntegrityError, match="external data"):
        write_card(tmp_path, card, onnx="model.onnx").read_file("onnx")


def test_modified_or_missing_file_raises(tmp_path: Path) -> None:
    card = models.save(tmp_path / "model", models.scatter_model())
    path = tmp_path / "model" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx: its SHA-256 is .*onnx\.sha256"):
        card.read_file("onnx")
    path.unlink()
    with pytest.raises(UserError, match=r"model\.onnx: No such file.*named in .*card\.yaml, onnx"):
        card.read_file("onnx")
    with pytest.raises(UserError, match="weights: the card names no such file"):
        card.read_file("weights")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {}}, "inputs and outputs must name"),
        ({"inputs": {"image": {"shape": [1, -1]}}}, "inputs.image: shape [1, -1]"),
        ({"inputs": {"image": {"shape": [1 << 20, 1 << 20]}}}, "inputs.image: shape"),
        ({"inputs": {"image": {"shape": [1], "dtype": "float64"}}}, "inputs.image.dtype: allowed"),
        ({"onnx": {"file": "../secret", "sha256": "0" * 64}}, "onnx: file '../secret'"),
        ({"onnx": {"file": "model.onnx", "sha256": "abc"}}, "onnx: sha256 must be 64"),
        ({"onnx": None}, "onnx, weights: at least one"),
        ({"range": [1.0]}, "range must be x min"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"path": "/etc"}, "path: not allowed"),
        ({"clases": []}, "clases: unknown key; allowed: architecture, classes"),
    ],
)
def test_invalid_card_raises_with_file_and_key(changes: dict, words: str, tmp_path: Path) -> None:
    card = models.save(tmp_path / "model", models.scatter_model())
    values = {**yaml.safe_load(card.path.read_text()), **changes}
    card.path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigurationError) as caught:
        load_card(card.path)
    assert str(caught.value).startswith(f"{card.path}: ") and words in str(caught.value)


def test_unknown_model_name_lists_shipped_models(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model 'no_such': no such model; shipped: "):
        load_card("no_such")
    with pytest.raises(UserError, match=r"card\.yaml: No such file"):
        load_card(tmp_path)


def test_card_for_missing_files_is_not_written(tmp_path: Path) -> None:
    card = ModelCard("m", "none", {"x": TensorSpec(())}, {"y": TensorSpec((1,))}, "MIT")
    with pytest.raises(UserError, match=r"model\.onnx: No such file"):
        write_card(tmp_path, card, onnx="model.onnx")
    assert not list(tmp_path.iterdir())


def test_longest_matching_weight_prefix_is_replaced() -> None:
    prefixes = {"exchange": "fusion", "exchange.*.attention": "fusion.*.own"}
    card = ModelCard(
        "m",
        "none",
        {"x": TensorSpec(())},
        {"y": TensorSpec((1,))},
        "MIT",
        weight_prefixes=prefixes,
    )
    stored = ("fusion.0.own.weight", "fusion.out.bias", "fusion_head.bias")
    expected = ["exchange.0.attention.weight", "exchange.out.bias", "fusion_head.bias"]
    assert list(card.to_module_names(dict.fromkeys(stored, 0))) == expected


@pytest.mark.parametrize("path", shipped_cards(), ids=lambda p: p.parent.name)
def test_files_of_shipped_models_match_their_cards(path: Path) -> None:
    card = load_card(path.parent.name)
    assert card.name == path.parent.name and card.training is not None and card.figures["main"]
    assert re.fullmatch(r"[A-Z].{20,}\.", card.task)
    named = {"card.yaml"}
    for kind in ("onnx", "weights"):
        if getattr(card, kind) is not None:
            assert len(card.read_file(kind)) <= 16 << 20
            named.add(getattr(card, kind).file)
    assert {p.name for p in path.parent.iterdir()} == named
