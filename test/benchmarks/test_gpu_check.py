"""The GPU check on a computer without a GPU: arguments, crashed steps, the report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_perception.benchmarks import gpu_check
from multimodal_perception.benchmarks.gpu_check import Step, all_steps, main, markdown, run_json
from multimodal_perception.configuration import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.sh"


def test_every_engine_and_precision_has_a_step_and_important_ones_come_first() -> None:
    steps = all_steps(["bev_fusion", "segmentation"])
    combinations = {(s.engine, s.precision) for s in steps}
    for library in ("tensorrt", "tensorrt_rtx"):
        assert {(library, p) for p in ("fp32", "fp16", "int8")} <= combinations
    assert {("torch", "fp32"), ("onnxruntime", "fp32")} <= combinations
    assert len({s.name for s in steps}) == len(steps)
    assert steps.index(Step("bev_fusion", "tensorrt", "fp16")) < 4
    assert not steps[-1].graph


def test_a_crash_a_hang_and_output_that_is_no_json_are_results() -> None:
    crash = [sys.executable, "-c", "import os; os.abort()"]
    assert "exit status -6" in run_json(crash, 20)["not_run"]
    hang = [sys.executable, "-c", "import time; time.sleep(30)"]
    assert run_json(hang, 0.5) == {"not_run": "no result within 0 s"}
    error = [sys.executable, "-c", "raise SystemExit('libcudnn.so not found')"]
    assert "libcudnn.so not found" in run_json(error, 20)["not_run"]
    good = [sys.executable, "-c", "print('log'); print('{\"p50_ms\": 1.5}')"]
    assert run_json(good, 20) == {"p50_ms": 1.5}


def test_without_a_gpu_steps_state_the_reason(tmp_path: Path) -> None:
    machine = gpu_check.machine()
    if not machine["gpu"].startswith("none"):
        pytest.skip("this computer has a GPU")
    assert gpu_check.prepare("bev_fusion_thermal", tmp_path) == {"prepared": "bev_fusion_thermal"}
    result = gpu_check.run_step(Step("bev_fusion_thermal", "tensorrt_rtx", "fp16"), tmp_path, False)
    assert "not_run" in result
    dry = gpu_check.run_step(Step("bev_fusion_thermal", "onnxruntime"), tmp_path, True)
    assert dry["agrees"] and dry["difference"] == 0.0 and dry["p50_ms"] > 0


def test_the_table_has_one_row_for_each_step() -> None:
    report = {
        "machine": {"gpu": "none"},
        "steps": [
            {"step": "a", "p50_ms": 1.234, "p95_ms": 2.0, "difference": 0.01, "agrees": False},
            {"step": "b", "not_run": "no driver"},
        ],
    }
    table = markdown(report)
    assert "| a | 1.23 | 2.00 | 1.00% |  |  | DIFFERS |" in table and "| no driver |" in table


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--time-limit: allowed: 10 to 3600"):
        main(["--time-limit", "5", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="no_model"):
        main(["--models", "no_model", "--out", str(tmp_path)])


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--unknown"], "unknown argument --unknown; allowed: --out"),
        (["--wheels", "/no/such/folder"], "--wheels: /no/such/folder is not a folder"),
        (["--time-limit", "soon"], "--time-limit: allowed: whole seconds; got soon"),
        (["--out"], "--out needs a value"),
        (["--python", "/no/python"], "--python: /no/python is not a program"),
    ],
)
def test_the_script_refuses_wrong_arguments(arguments: list[str], words: str) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr


def test_steps_are_passed_as_json() -> None:
    step = Step("bev_fusion", "tensorrt", "int8", graph=False)
    assert Step(**json.loads(json.dumps(step.__dict__))) == step
