"""Building engines with TensorRT-RTX, whose parser and builder need no GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import TensorSpec, load_card, shipped_cards
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, build_plan, plan_for
from test.runtime import small_models as models

CAPABILITIES = ((8, 6), (8, 9), (12, 0))
CONFIG = RuntimeConfig()


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return Library("tensorrt_rtx")


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm{c[0]}{c[1]}")
@pytest.mark.parametrize("path", shipped_cards(), ids=lambda p: p.parent.name)
def test_every_shipped_onnx_can_be_built(
    path: Path, capability: tuple[int, int], library: Library
) -> None:
    card = load_card(path).with_onnx_names()
    plan = build_plan(library, card.read_file("onnx"), card, CONFIG, Target(ANY_GPU, capability))
    assert len(plan) > 10_000


def test_progress_is_reported_until_all_steps_are_done(library: Library, tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    reported: dict[str, list[tuple[int, int]]] = {}
    build_plan(
        library,
        card.read_file("onnx"),
        card,
        CONFIG,
        Target(ANY_GPU, (8, 9)),
        lambda phase, done, steps: reported.setdefault(phase, []).append((done, steps)),
    )
    assert len(reported) > 3
    for steps in reported.values():
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1] > 0


def test_ctrl_c_aborts_a_build(library: Library, tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    calls = []

    def interrupt(phase: str, done: int, steps: int) -> None:
        calls.append(phase)
        if done == 1:
            raise KeyboardInterrupt

    config = RuntimeConfig(cache=str(tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        plan_for(library, card, config, Target(ANY_GPU, (8, 9)), interrupt)
    assert not list((tmp_path / "cache").glob("*.engine"))


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (
            {"inputs": {**models.INPUTS, "image": TensorSpec((1, 3, 16, 32))}},
            r"input image of the ONNX model is \[1, 3, 16, 24\] float32, .* it is \[1, 3, 16, 32\]",
        ),
        (
            {"inputs": {**models.INPUTS, "cells": TensorSpec((1, 4, 64), "int32")}},
            "input cells of the ONNX model is .* int64, .* int32",
        ),
        (
            {"outputs": {**models.OUTPUTS, "boxes": TensorSpec((1, 7))}},
            "output boxes of the ONNX model is absent",
        ),
        (
            {"outputs": {"scores": models.OUTPUTS["scores"]}},
            "output indices of the ONNX model is .* it is absent",
        ),
    ],
)
def test_onnx_that_differs_from_its_card_raises(
    specs: dict, words: str, library: Library, tmp_path: Path
) -> None:
    card = models.save(tmp_path / "m", models.scatter_model(), **specs)
    with pytest.raises(EngineError, match=words):
        build_plan(library, card.read_file("onnx"), card, CONFIG, Target(ANY_GPU, (8, 9)))


def test_unsupported_operator_is_named(library: Library, tmp_path: Path) -> None:
    model = models.scatter_model()
    (scatter,) = (n for n in model.graph.node if n.op_type == "ScatterElements")
    scatter.attribute.append(onnx.helper.make_attribute("reduction", "add"))
    card = models.save(tmp_path / "m", model)
    with pytest.raises(EngineError, match=r"card\.yaml: the parser rejects .*ScatterElements"):
        build_plan(library, card.read_file("onnx"), card, CONFIG, Target(ANY_GPU, (8, 9)))
    with pytest.raises(EngineError, match="the parser rejects"):
        build_plan(library, b"no onnx", card, CONFIG, Target(ANY_GPU, (8, 9)))


def test_modified_onnx_is_not_built(library: Library, tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    (tmp_path / "m" / "model.onnx").write_bytes(b"other")
    config = RuntimeConfig(cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="its SHA-256 is"):
        plan_for(library, card, config, Target(ANY_GPU, (8, 9)))


@pytest.mark.parametrize(
    ("config", "capability", "words"),
    [
        (CONFIG, (9, 0), r"does not support compute capability 9\.0; allowed: 7\.5, 8\.0"),
        (RuntimeConfig(dla_core=0), (8, 6), "needs the library tensorrt and precision fp16"),
    ],
)
def test_unsupported_settings_raise(
    config: RuntimeConfig,
    capability: tuple[int, int],
    words: str,
    library: Library,
    tmp_path: Path,
) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    with pytest.raises(EngineError, match=words):
        build_plan(library, card.read_file("onnx"), card, config, Target(ANY_GPU, capability))
