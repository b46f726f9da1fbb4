"""Building with NVIDIA's own parser and builder, on the CPU; and running, as far as no GPU shows."""

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
def test_every_shipped_onnx_is_built(
    path: Path, capability: tuple[int, int], library: Library
) -> None:
    card = load_card(path)
    plan = build_plan(library, card.read_file("onnx"), card, CONFIG, Target(ANY_GPU, capability))
    assert len(plan) > 10_000


def test_progress_is_told_and_ends_with_all_steps(library: Library, tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    told: dict[str, list[tuple[int, int]]] = {}
    build_plan(
        library,
        card.read_file("onnx"),
        card,
        CONFIG,
        Target(ANY_GPU, (8, 9)),
        lambda phase, done, steps: told.setdefault(phase, []).append((done, steps)),
    )
    assert len(told) > 3
    for steps in told.values():
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1] > 0


def test_ctrl_c_ends_a_build(library: Library, tmp_path: Path) -> None:
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
            r"input image of the ONNX is \[1, 3, 16, 24\] float32, .* says \[1, 3, 16, 32\]",
        ),
        (
            {"inputs": {**models.INPUTS, "cells": TensorSpec((1, 4, 64), "int32")}},
            "input cells of the ONNX is .* int64, .* int32",
        ),
        (
            {"outputs": {**models.OUTPUTS, "boxes": TensorSpec((1, 7))}},
            "output boxes of the ONNX is absent",
        ),
        (
            {"outputs": {"scores": models.OUTPUTS["scores"]}},
            "output indices of the ONNX is .* says absent",
        ),
    ],
)
def test_an_onnx_of_other_shapes_than_its_card_is_refused(
    specs: dict, words: str, library: Library, tmp_path: Path
) -> None:
    card = models.save(tmp_path / "m", models.scatter_model(), **specs)
    with pytest.raises(EngineError, match=words):
        build_plan(library, card.read_file("onnx"), card, CONFIG, Target(ANY_GPU, (8, 9)))


def test_an_operator_that_the_parser_refuses_is_named(library: Library, tmp_path: Path) -> None:
    model = models.scatter_model()
    (scatter,) = (n for n in model.graph.node if n.op_type == "ScatterElements")
    scatter.attribute.append(onnx.helper.make_attribute("reduction", "add"))
    card = models.save(tmp_path / "m", model)
    with pytest.raises(EngineError, match=r"card\.yaml: the parser refuses .*ScatterElements"):
        build_plan(library, card.read_file("onnx"), card, CONFIG, Target(ANY_GPU, (8, 9)))
    with pytest.raises(EngineError, match="the parser refuses"):
        build_plan(library, b"no onnx", card, CONFIG, Target(ANY_GPU, (8, 9)))


def test_a_tampered_onnx_is_not_built(library: Library, tmp_path: Path) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    (tmp_path / "m" / "model.onnx").write_bytes(b"other")
    config = RuntimeConfig(cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="its SHA-256 is"):
        plan_for(library, card, config, Target(ANY_GPU, (8, 9)))


@pytest.mark.parametrize(
    ("config", "capability", "words"),
    [
        (CONFIG, (9, 0), r"knows no compute capability 9\.0: 7\.5, 8\.0"),
        (RuntimeConfig(dla_core=0), (8, 6), "needs the library tensorrt and precision fp16"),
    ],
)
def test_what_cannot_be_built_says_why(
    config: RuntimeConfig,
    capability: tuple[int, int],
    words: str,
    library: Library,
    tmp_path: Path,
) -> None:
    card = models.save(tmp_path / "m", models.scatter_model())
    with pytest.raises(EngineError, match=words):
        build_plan(library, card.read_file("onnx"), card, config, Target(ANY_GPU, capability))
