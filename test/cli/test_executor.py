from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multimodal_perception.cli.executor import (
    Executor,
    Outcome,
    add_executor_arguments,
    executor_from,
    report_failures,
    run_drives,
)
from multimodal_perception.cli.finished_drives import FinishedDrives
from multimodal_perception.configuration import UserError

sys.path.insert(0, str(Path(__file__).parent))
import drive_work

WORKERS = {"one process": 1, "two processes": 2, "ray": 2}


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine; skipped where Ray has no wheel."""
    ray = pytest.importorskip("ray", reason="Ray is not installed here")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(drive_work)
    yield
    ray.shutdown()


def open_executor(kind: str, request: pytest.FixtureRequest) -> Executor:
    if kind == "ray":
        request.getfixturevalue("ray_cluster")
    return Executor("ray" if kind == "ray" else "local", workers=WORKERS[kind])


@pytest.fixture(params=WORKERS)
def executor(request: pytest.FixtureRequest) -> Executor:
    return open_executor(request.param, request)


@pytest.fixture(params=("two processes", "ray"))
def parallel_executor(request: pytest.FixtureRequest) -> Executor:
    return open_executor(request.param, request)


def names(jobs: list[Any]) -> list[str]:
    return [f"drive {i}" for i in range(len(jobs))]


def test_results_are_in_the_order_of_the_drives_and_errors_stop_nothing(
    executor: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [("good", 2), ("broken", 1), ("good", 1), ("fault", 0), ("good", 3)]
    outcomes = run_drives(drive_work.work, jobs, names(jobs), executor)
    assert [o.result for o in outcomes] == [4, None, 1, None, 9]
    assert [o.name for o in outcomes] == names(jobs)
    assert outcomes[1].error == "drive 1: not a bag"
    assert outcomes[3].error == "ZeroDivisionError: a fault in the program"
    assert report_failures(outcomes) == 2
    text = capsys.readouterr().err
    assert "failed: drive 1: drive 1: not a bag" in text and "2 of 5 drives failed" in text


def test_the_drives_of_a_killed_worker_are_done_again(
    parallel_executor: Executor, tmp_path: Path
) -> None:
    jobs = [(str(tmp_path), i) for i in range(6)]
    outcomes = run_drives(drive_work.work_and_kill, jobs, names(jobs), parallel_executor)
    assert (tmp_path / "killed").exists()
    assert [o.result for o in outcomes] == [1, 2, 3, 4, 5, 6]
    assert not any(o.error for o in outcomes)


def test_a_drive_that_always_kills_its_worker_is_reported(
    parallel_executor: Executor, tmp_path: Path
) -> None:
    (tmp_path / "killed").touch()
    jobs: list[tuple[str, int]] = [(str(tmp_path), i) for i in range(4)]
    jobs.insert(1, ("always", 9))
    outcomes = run_drives(drive_work.work_and_kill, jobs, names(jobs), parallel_executor)
    assert [o.result for o in outcomes] == [1, None, 2, 3, 4]
    assert outcomes[1].error


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    """The first run is interrupted at the third drive."""
    data = [tmp_path / f"drive{i}" for i in range(4)]
    for path in data:
        path.mkdir()
        (path / "bag").write_text("content")
    jobs = [(str(tmp_path), i) for i in range(4)]
    paths = [str(p) for p in data]

    def interrupted(job: tuple[str, int]) -> int:
        if job[1] == 2:
            raise KeyboardInterrupt
        return drive_work.count_and_work(job)

    finished = FinishedDrives(tmp_path / "resume")
    with pytest.raises(KeyboardInterrupt):
        run_drives(interrupted, jobs, paths, Executor(), finished)
    calls = tmp_path / "calls"
    assert calls.read_text().split() == ["0", "1"]
    again = FinishedDrives(tmp_path / "resume")
    outcomes = run_drives(drive_work.count_and_work, jobs, paths, Executor(), again)
    assert [o.result for o in outcomes] == [0, 2, 4, 6]
    assert calls.read_text().split() == ["0", "1", "2", "3"]
    # A drive whose files changed and a damaged result are computed again.
    (data[1] / "bag").write_text("other content")
    stored = sorted((tmp_path / "resume").iterdir())
    stored[0].write_bytes(b"damaged")
    run_drives(drive_work.count_and_work, jobs, paths, Executor(), again)
    assert 5 <= len(calls.read_text().split()) <= 6
    again.remove()
    assert not (tmp_path / "resume").exists()


def test_options_select_the_executor(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_executor_arguments(parser)

    def parse(*arguments: str) -> Executor:
        return executor_from(parser.parse_args(arguments))

    assert parse() == Executor("local", "", 1)
    assert parse("--executor", "ray=10.0.0.1:6379") == Executor("ray", "10.0.0.1:6379", 1)
    assert parse("--executor", "ray", "--workers", "4").processes == 4
    assert parse("--workers", "0").processes >= 1
    for wrong in ("slurm", "local=host", ""):
        with pytest.raises(UserError, match="--executor"):
            parse("--executor", wrong)


def test_a_missing_ray_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install"):
        run_drives(drive_work.work, [("good", 1)], ["a"], Executor("ray"))


def test_no_drives_give_no_outcomes(executor: Executor) -> None:
    outcomes: list[Outcome[int]] = run_drives(drive_work.work, [], [], executor)
    assert outcomes == []


def test_an_unreachable_cluster_is_explained() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed here")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(UserError, match="no Ray cluster at"):
        run_drives(
            drive_work.work, [("good", 1)], ["a"], Executor("ray", "unknown-scheme://nowhere")
        )
