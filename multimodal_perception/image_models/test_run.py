"""One run of an ONNX file of unknown origin, in a process of its own with limits of time and memory.

    python -m multimodal_perception.image_models.test_run MODEL INPUTS OUTPUTS

MODEL: ONNX file. INPUTS, OUTPUTS: .npz files with arrays by tensor name. Exit code 1 and a line on
standard error if the network cannot be run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.processes import terminate_with_parent

TIMEOUT_S = 180
MAX_MEMORY_BYTES = 12 << 30
MAX_OUTPUT_BYTES = 1 << 30


def run_once(
    content: bytes, inputs: Mapping[str, NDArray[Any]], source: str, timeout_s: float = TIMEOUT_S
) -> dict[str, NDArray[Any]]:
    """Outputs by name of one run of an ONNX network.

    source: name of the file for errors. Raises UserError if the network cannot be loaded or run, takes
    too long or needs too much memory.
    """
    with tempfile.TemporaryDirectory(prefix="image_model_") as folder:
        model, given, results = (
            Path(folder) / n for n in ("model.onnx", "inputs.npz", "outputs.npz")
        )
        model.write_bytes(content)
        np.savez(given, **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-m", __name__, str(model), str(given), str(results)]
        parent = os.getpid()
        try:
            finished = subprocess.run(
                command,
                timeout=timeout_s,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                preexec_fn=lambda: terminate_with_parent(parent),
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{source}: a run takes longer than {timeout_s:g} s") from error
        if finished.returncode != 0:
            lines = [line for line in finished.stderr.splitlines() if line.strip()]
            reason = lines[-1][:500] if lines else f"exit code {finished.returncode}"
            raise UserError(f"{source}: the network cannot be run: {reason}")
        with np.load(results, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def main(arguments: list[str]) -> int:
    """Run the network; see the module's docstring."""
    import resource

    import onnxruntime

    model, given, results = arguments
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (2 * TIMEOUT_S, 2 * TIMEOUT_S))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        with np.load(given, allow_pickle=False) as arrays:
            inputs = {name: arrays[name] for name in arrays.files}
        # From bytes, so that a path in the model cannot refer to other files.
        session = onnxruntime.InferenceSession(
            Path(model).read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        outputs = {name: np.asarray(values) for name, values in outputs.items()}
        wrong = [n for n, v in outputs.items() if v.dtype.kind not in "fiub"]
        if wrong or sum(v.nbytes for v in outputs.values()) > MAX_OUTPUT_BYTES:
            raise ValueError(f"outputs are no numbers, or too large: {wrong}")
        np.savez(results, **outputs)
    except Exception as error:  # its exceptions share no base class
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
