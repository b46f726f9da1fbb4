"""Comparison of inference engines, and of the shipped detector with its stored outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.agreement import (
    TOLERANCE,
    Agreement,
    ComparedNetwork,
    compare_detections,
    compare_with_golden,
    max_relative_difference,
    write_golden,
)
from multimodal_perception.runtime.card import TensorSpec
from multimodal_perception.runtime.engine import Arrays

GOLDEN = Path(__file__).with_name("golden.npz")


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_shipped_detector_reproduces_its_stored_outputs(engine: str) -> None:
    agreement = compare_with_golden("bev_fusion", engine, GOLDEN)  # type: ignore[arg-type]
    assert agreement.compared > 10
    assert agreement.within_tolerance, agreement
    assert GOLDEN.stat().st_size < 100_000


def test_stored_outputs_of_another_model_and_invalid_files_are_refused(tmp_path: Path) -> None:
    with np.load(GOLDEN) as content:
        arrays = {n: content[n] for n in content.files}
    other = tmp_path / "golden.npz"
    np.savez(other, **{**arrays, "onnx": np.array("0")})
    with pytest.raises(UserError, match="evaluate agreement --detector bev_fusion --golden"):
        compare_with_golden("bev_fusion", "onnxruntime", other)
    other.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"golden\.npz: not a"):
        compare_with_golden("bev_fusion", "onnxruntime", other)


def random_detections(count: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(2, 30, (count, 7)).astype(np.float32)
    return boxes, rng.uniform(0.3, 1, count), np.arange(count) % 3


def test_comparison_ignores_the_order_and_differences_are_relative() -> None:
    boxes, scores, labels = random_detections(9)
    order = np.arange(9)[::-1]
    changed = boxes.copy()
    changed[4, 3] *= 1.002
    agreement = Agreement()
    other = (changed[order], scores[order] * 0.9995, labels[order])
    compare_detections((boxes, scores, labels), other, 0.1, agreement)
    assert agreement.compared == 18 and not agreement.unmatched
    np.testing.assert_allclose(agreement.max_differences["boxes"], 0.002, rtol=0.01)
    np.testing.assert_allclose(agreement.max_differences["scores"], 0.0005, rtol=0.01)
    assert not agreement.within_tolerance


def test_missing_box_is_unmatched_unless_its_score_is_low() -> None:
    boxes, scores, labels = random_detections(6)
    complete, fewer = (boxes, scores, labels), (boxes[1:], scores[1:], labels[1:])
    for first, second in ((complete, fewer), (fewer, complete)):
        agreement = Agreement()
        compare_detections(first, second, 0.1, agreement)
        assert agreement.unmatched == 1 and not agreement.within_tolerance
    agreement = Agreement()
    scores[0] = 0.05
    compare_detections((boxes, scores, labels), fewer, 0.1, agreement)
    assert agreement.within_tolerance
    # A box of another class does not match.
    compare_detections((boxes, scores, (labels + 1) % 3), (boxes, scores, labels), 0.1, agreement)
    assert agreement.unmatched
    assert not Agreement().within_tolerance  # nothing was compared


def test_yaw_difference_of_2_pi_is_zero() -> None:
    box = np.array([1, 2, 3, 4, 5, 6, np.pi - 1e-5])
    assert max_relative_difference(box, box - [0, 0, 0, 0, 0, 0, 2 * np.pi], 1.0) < 1e-6
    assert max_relative_difference(box, box - [0, 0, 0, 0, 0, 0, np.pi], 1.0) > 0.9


class ConstantRefinement:
    """A refinement network with constant outputs."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence
        self.inputs: dict[str, TensorSpec] = {}

    def run(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return {
            "confidences": np.full((1, 4, 6), self.confidence, np.float32),
            "refined_boxes": np.ones((1, 4, 7), np.float32),
        }


def test_compared_network_returns_the_outputs_of_the_first_engine() -> None:
    agreement, first = Agreement(), ConstantRefinement(0.5)
    second = ConstantRefinement(0.5 * (1 + 0.5 * TOLERANCE))
    assert ComparedNetwork(first, second, agreement).run({})["confidences"][0, 0, 0] == 0.5
    assert agreement.within_tolerance
    assert agreement.max_differences["confidences"] > 0.4 * TOLERANCE
    ComparedNetwork(first, ConstantRefinement(0.502), agreement).run({})
    assert not agreement.within_tolerance


def test_stored_outputs_are_written_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    assert main(["evaluate", "agreement", "--golden", str(path)]) == 0
    with np.load(path) as written, np.load(GOLDEN) as stored:
        assert set(written.files) == set(stored.files)
        assert str(written["onnx"]) == str(stored["onnx"])
    missing = tmp_path / "no" / "golden.npz"
    with pytest.raises(UserError, match="no such folder"):
        write_golden("bev_fusion", missing)
