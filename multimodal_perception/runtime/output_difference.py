"""How far the outputs of an engine differ from reference outputs, as one relative figure per output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.settings import Precision

# Largest accepted difference from the float32 reference. Rounding to bfloat16 (8 bits of mantissa) and
# float16 (11 bits) in every layer of the shipped networks stays below half of these.
TOLERANCES: Mapping[Precision, float] = {"fp32": 0.005, "fp16": 0.05, "bf16": 0.1, "int8": 0.25}
# Rows of a ranked list that are compared: those with the highest reference scores.
COMPARED_ROWS = 16


def output_differences(card: ModelCard, reference: Arrays, outputs: Arrays) -> dict[str, float]:
    """Return the difference of each output from the reference, by the card's names.

    Dense floating-point outputs: root mean square of the difference divided by that of the
    reference. Integers and flags: fraction of values that differ. Lists ranked by score (outputs
    `scores` (1, K) and `labels` (1, K)): rounding may exchange rows, so scores are compared after
    sorting, and each of the COMPARED_ROWS best rows with the most similar row of the same label; the
    median over rows counts.
    """
    ranked = _ranked_outputs(card)
    result: dict[str, float] = {}
    for name in card.outputs:
        if name == "scores" and ranked:
            result[name] = _dense(np.sort(reference[name]), np.sort(outputs[name]))
        elif name in ranked:
            if name != "labels":
                result[name] = _ranked(reference, outputs, name)
        else:
            result[name] = _dense(reference[name], outputs[name])
    return result


def _ranked_outputs(card: ModelCard) -> tuple[str, ...]:
    """Names of the outputs whose rows are ranked by score; empty if the network has no such list."""
    scores, labels = card.outputs.get("scores"), card.outputs.get("labels")
    if scores is None or labels is None or scores.shape != labels.shape or len(scores.shape) != 2:
        return ()
    return tuple(n for n, spec in card.outputs.items() if spec.shape[:2] == scores.shape)


def _dense(reference: NDArray, output: NDArray) -> float:
    if reference.dtype.kind != "f":
        return float(np.mean(reference != output))
    expected = reference.astype(np.float64)
    error = np.sqrt(np.mean((expected - output) ** 2))
    return float(error / max(np.sqrt(np.mean(expected**2)), 1e-6))


def _ranked(reference: Arrays, outputs: Arrays, name: str) -> float:
    count = min(COMPARED_ROWS, reference["scores"].shape[1])
    best = np.argsort(-reference["scores"][0], kind="stable")[:count]
    differences = []
    for row in best:
        expected = reference[name][0, row].astype(np.float64)
        same = outputs["labels"][0] == reference["labels"][0, row]
        if not same.any():
            differences.append(np.inf)
            continue
        error = np.abs(outputs[name][0, same] - expected).reshape(int(same.sum()), -1).mean(axis=1)
        differences.append(error.min() / max(np.abs(expected).mean(), 1e-6))
    return float(np.median(differences))
