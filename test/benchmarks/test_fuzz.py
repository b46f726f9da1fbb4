"""A small run of `bench fuzz`: mutated inputs are read or refused with a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_perception.benchmarks import fuzz
from multimodal_perception.benchmarks.fuzzing.files import FILE_TARGETS, mutate_file
from multimodal_perception.benchmarks.fuzzing.messages import fuzz_frames, fuzz_messages
from multimodal_perception.benchmarks.fuzzing.mutations import mutate_bytes, mutate_values
from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError


@pytest.mark.parametrize("target", list(FILE_TARGETS))
def test_mutated_files_are_read_or_refused(target: str, tmp_path: Path) -> None:
    """Seeds other than those of the benchmark's documentation."""
    definition = FILE_TARGETS[target]
    for case in range(8):
        folder = tmp_path / str(case)
        folder.mkdir()
        definition.write(folder)
        if case == 0:
            definition.read(folder)  # valid
            continue
        rng = np.random.default_rng((77, case))
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        mutate_file(files[rng.integers(0, len(files))], rng)
        try:
            definition.read(folder)
        except UserError as error:
            assert str(error)


def test_a_topic_whose_name_is_a_mapping_is_refused(tmp_path: Path) -> None:
    """Found by `bench fuzz files --count 10000`."""
    definition = FILE_TARGETS["bag_sqlite"]
    definition.write(tmp_path)
    metadata = tmp_path / "bag" / "metadata.yaml"
    text = metadata.read_text()
    assert "name: /lidar/points" in text
    metadata.write_text(text.replace("name: /lidar/points", "name: {a: 1}"))
    with pytest.raises(UserError, match=r"bag.*"):
        definition.read(tmp_path)


def test_mutated_messages_and_frames_are_processed() -> None:
    assert max(fuzz_messages(5, 400)) >= 400
    assert max(fuzz_frames(5, 30)) == 30


def test_an_interrupted_run_reports_its_results_and_where_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_two_batches(batches: Any, args: Any, total: fuzz.Outcome, bar: Any) -> None:
        assert [number for _, number in batches] == list(range(7, 12))
        total.counts["frames"] += 400
        bar.update(2)
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "_run_batches", run_two_batches)
    out = tmp_path / "fuzz.json"
    arguments = ["--count", "1000", "--first-batch", "7", "--json", str(out)]
    assert main(["bench", "fuzz", "frames", *arguments]) == 130
    result = json.loads(out.read_text())
    assert (result["frames"], result["continue_with_first_batch"]) == (400, 9)


def test_mutations_depend_on_the_random_generator_only() -> None:
    values = {"a": [1, 2, {"b": "text"}], "c": 1.5}
    for seed in range(20):
        first, second = (
            (mutate_values(values, rng), mutate_bytes(b"0123456789", rng))
            for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
        )
        assert repr(first) == repr(second)
    assert values == {"a": [1, 2, {"b": "text"}], "c": 1.5}


def test_the_command_counts_results_and_refuses_unknown_targets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fuzz.json"
    arguments = ["bench", "fuzz", "files", "--count", "1", "--workers", "1", "--json", str(out)]
    assert main([*arguments, "--target", "scenario"]) == 0
    result = json.loads(out.read_text())
    assert result["scenario.read"] + result["scenario.refused"] == 100
    assert result["failures"] == 0
    assert main([*arguments, "--target", "spreadsheet"]) == 2
    assert "allowed: rig" in capsys.readouterr().err
