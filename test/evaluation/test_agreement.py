"""Engines that say the same, and the shipped detector saying what it said when it was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.agreement import (
    TOLERANCE,
    Agreement,
    BothEngines,
    compare_found,
    compare_with_golden,
    relative,
    write_golden,
)
from multimodal_perception.runtime.card import TensorSpec
from multimodal_perception.runtime.engine import Arrays

GOLDEN = Path(__file__).with_name("golden.npz")


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_the_shipped_detector_says_what_it_said(engine: str) -> None:
    agreement = compare_with_golden("detector", engine, GOLDEN)  # type: ignore[arg-type]
    assert agreement.compared > 10
    assert agreement.holds, agreement
    assert GOLDEN.stat().st_size < 100_000


def test_golden_outputs_of_another_model_or_none_are_named(tmp_path: Path) -> None:
    with np.load(GOLDEN) as content:
        arrays = {n: content[n] for n in content.files}
    other = tmp_path / "golden.npz"
    np.savez(other, **{**arrays, "onnx": np.array("0")})
    with pytest.raises(UserError, match="evaluate agreement --detector detector --golden"):
        compare_with_golden("detector", "onnxruntime", other)
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="not golden outputs"):
        compare_with_golden("detector", "onnxruntime", other)


def boxes_of(count: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(2, 30, (count, 7)).astype(np.float32)
    return boxes, rng.uniform(0.3, 1, count), np.arange(count) % 3


def test_order_does_not_matter_and_differences_are_relative() -> None:
    boxes, scores, labels = boxes_of(9)
    turned = np.arange(9)[::-1]
    moved = boxes.copy()
    moved[4, 3] *= 1.002
    agreement = Agreement()
    other = (moved[turned], scores[turned] * 0.9995, labels[turned])
    compare_found((boxes, scores, labels), other, 0.1, agreement)
    assert agreement.compared == 18 and not agreement.alone
    np.testing.assert_allclose(agreement.apart["boxes"], 0.002, rtol=0.01)
    np.testing.assert_allclose(agreement.apart["scores"], 0.0005, rtol=0.01)
    assert not agreement.holds


def test_a_box_that_one_side_lacks_counts_unless_its_score_is_low() -> None:
    boxes, scores, labels = boxes_of(6)
    fewer = boxes[1:], scores[1:], labels[1:]
    for ours, theirs in (((boxes, scores, labels), fewer), (fewer, (boxes, scores, labels))):
        agreement = Agreement()
        compare_found(ours, theirs, 0.1, agreement)
        assert agreement.alone == 1 and not agreement.holds
    agreement = Agreement()
    scores[0] = 0.05
    compare_found((boxes, scores, labels), fewer, 0.1, agreement)
    assert agreement.holds
    # Of another class it is another box.
    compare_found((boxes, scores, (labels + 1) % 3), (boxes, scores, labels), 0.1, agreement)
    assert agreement.alone
    assert not Agreement().holds  # nothing compared is no agreement


def test_a_whole_turn_is_no_difference() -> None:
    box = np.array([1, 2, 3, 4, 5, 6, np.pi - 1e-5])
    assert relative(box, box - [0, 0, 0, 0, 0, 0, 2 * np.pi], 1.0) < 1e-6
    assert relative(box, box - [0, 0, 0, 0, 0, 0, np.pi], 1.0) > 0.9


class Said:
    """A refinement that says one thing."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence
        self.inputs: dict[str, TensorSpec] = {}

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return {
            "confidences": np.full((1, 4, 6), self.confidence, np.float32),
            "refined": np.ones((1, 4, 7), np.float32),
        }


def test_both_engines_are_asked_and_the_first_is_believed() -> None:
    agreement = Agreement()
    both = BothEngines(Said(0.5), Said(0.5 * (1 + 0.5 * TOLERANCE)), agreement)
    assert both.run({})["confidences"][0, 0, 0] == 0.5
    assert agreement.holds and agreement.apart["confidences"] > 0.4 * TOLERANCE
    BothEngines(Said(0.5), Said(0.502), agreement).run({})
    assert not agreement.holds


def test_golden_outputs_are_written_by_one_command(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    assert main(["evaluate", "agreement", "--golden", str(path)]) == 0
    with np.load(path) as made, np.load(GOLDEN) as kept:
        assert set(made.files) == set(kept.files) and str(made["onnx"]) == str(kept["onnx"])
    missing = tmp_path / "no" / "golden.npz"
    with pytest.raises(UserError, match="golden"):
        write_golden("detector", missing)
