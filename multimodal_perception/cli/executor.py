"""Runs one function for many drives: in processes of this machine, or as tasks of a Ray cluster.

Each drive is one task. The results are returned in the order of the drives, independent of the order of
completion. The drives of a killed worker are processed again. A drive whose data cannot be read is
reported and does not stop the others. With a folder for finished results, an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from multimodal_perception.cli.finished_drives import FinishedDrives, default_folder
from multimodal_perception.cli.json_values import encode
from multimodal_perception.configuration import UserError
from multimodal_perception.extras import MissingPackageError, check_packages, import_package

Job = TypeVar("Job")
Result = TypeVar("Result")
# A drive whose worker ends abnormally this many times is reported as failed.
MAX_ATTEMPTS = 3
LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class Executor:
    """kind: local or ray. address: of the Ray cluster; "" starts one on this machine. workers: number
    of processes, or of tasks at a time on a Ray cluster that is started here; 0: all CPU cores."""

    kind: str = LOCAL
    address: str = ""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.kind not in (LOCAL, RAY):
            raise UserError(f"--executor: allowed: local, ray, ray=ADDRESS; got {self.kind!r}")

    @property
    def processes(self) -> int:
        """Number of workers on this machine."""
        return self.workers or os.cpu_count() or 1


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """The result of a drive, or the reason why there is none."""

    name: str
    result: Result | None
    error: str = ""


def add_executor_arguments(
    parser: argparse.ArgumentParser, workers: bool = True, resume: bool = True
) -> None:
    """Add --executor, and --workers and --resume unless the command has its own way."""
    parser.add_argument(
        "--executor",
        default=LOCAL,
        metavar="local|ray[=ADDRESS]",
        help="where drives are processed: in processes of this machine, or on a Ray cluster (default: "
        "local; ray alone starts a cluster on this machine)",
    )
    if resume:
        parser.add_argument(
            "--resume",
            type=Path,
            metavar="DIR",
            help="folder for the results of finished drives, with which an interrupted run resumes "
            "(default: in the cache; deleted after a run without failures)",
        )
    if workers:
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            help="number of drives at the same time on this machine; 0: all CPU cores (default: 1)",
        )


def executor_from(args: argparse.Namespace) -> Executor:
    """The executor of the options. Raises UserError."""
    kind, _, address = str(args.executor).partition("=")
    if kind == LOCAL and address:
        raise UserError(f"--executor: local has no address; got {args.executor!r}")
    if kind == RAY:
        check_packages("ray")
    return Executor(kind, address, args.workers)


def resume_folder(args: argparse.Namespace, command: str, jobs: Sequence[Any]) -> Path:
    """The folder for finished drives: --resume, or one in the user's cache for this command."""
    if args.resume is not None:
        return Path(args.resume)
    return default_folder(command, encode(list(jobs)))


def run_drives(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    names: Sequence[str],
    executor: Executor,
    finished: FinishedDrives | None = None,
    unit: str = "drive",
) -> list[Outcome[Result]]:
    """Call function(job) for each drive. Returns one outcome for each job, in their order.

    function: at module level, so that other processes can import it; a UserError that it raises is the
    outcome of its drive, any other exception too, with its type. finished: results of an earlier run are
    taken from it, and new ones added. unit: what the bar counts. Raises UserError
    if Ray is not installed or cannot be reached.
    """
    outcomes: dict[int, Outcome[Result]] = {}
    pending = []
    for i, (job, name) in enumerate(zip(jobs, names, strict=True)):
        stored = finished.get(job, name) if finished is not None else None
        if stored is None:
            pending.append(i)
        else:
            outcomes[i] = Outcome(name, stored)
    run = _run_ray if executor.kind == RAY else _run_local
    with tqdm(total=len(jobs), initial=len(outcomes), unit=unit) as bar:
        for i, result, error in run(function, jobs, pending, executor) if pending else ():
            outcomes[i] = Outcome(names[i], result, error)
            if finished is not None and result is not None:
                finished.add(jobs[i], names[i], result)
            bar.update()
    return [outcomes[i] for i in range(len(jobs))]


def report_failures(outcomes: Sequence[Outcome[Any]], what: str = "drives") -> int:
    """Print the drives without result to stderr and return their number. what: their name."""
    failed = [o for o in outcomes if o.error]
    for outcome in failed:
        print(f"failed: {outcome.name}: {outcome.error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(outcomes)} {what} failed", file=sys.stderr)
    return len(failed)


_Finished = Iterator[tuple[int, Any, str]]


def _call(function: Callable[[Any], Any], job: Any) -> tuple[Any, str]:
    """Result and error of one drive; runs in the worker. Raises MissingPackageError."""
    try:
        return function(job), ""
    except MissingPackageError:  # no drive would have a result
        raise
    except UserError as error:
        return None, str(error)
    except Exception as error:  # a fault in one drive must not stop the others
        return None, f"{type(error).__name__}: {error}"


def _call_remotely(function: Callable[[Any], Any], job: Any) -> tuple[Any, str]:
    """Like _call, for another computer, on which a package may be missing."""
    try:
        return _call(function, job)
    except MissingPackageError as error:
        return None, str(error)


def _run_local(
    function: Callable[[Any], Any], jobs: Sequence[Any], pending: Sequence[int], executor: Executor
) -> _Finished:
    """Yield (index, result, error) of each drive as it finishes.

    A killed worker breaks the whole pool (BrokenProcessPool). The drives that were running then run
    one at a time in new pools (`retried_alone`), so that a further abnormal end belongs to one drive.
    A drive whose worker ends abnormally MAX_ATTEMPTS times is reported as failed. Then the rest
    continues on all workers.
    """
    if executor.processes == 1 or len(pending) <= 1:
        for i in pending:
            yield (i, *_call(function, jobs[i]))
        return
    attempts = dict.fromkeys(pending, 0)
    remaining, retried_alone = list(pending), list[int]()
    while remaining:
        batch, workers = (
            (retried_alone, 1) if retried_alone else (list(remaining), executor.processes)
        )
        lost: list[int] = []
        for i, result, error in _run_pool(function, jobs, batch, workers, lost):
            remaining.remove(i)
            yield i, result, error
        retried_alone = [i for i in retried_alone if i in remaining]
        for i in lost:
            attempts[i] += 1
            if i not in retried_alone:
                retried_alone.append(i)
            if attempts[i] >= MAX_ATTEMPTS:
                remaining.remove(i)
                retried_alone.remove(i)
                yield i, None, f"its worker ended abnormally {MAX_ATTEMPTS} times"


def _run_pool(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    batch: Sequence[int],
    workers: int,
    lost: list[int],
) -> _Finished:
    """Yield the results of one pool. Drives that ran when a worker was killed are added to `lost`."""
    # spawn: forked copies of threads and of inference engines hang.
    context = multiprocessing.get_context("spawn")
    futures: dict[Future[Any], int] = {}
    queue = iter(batch)
    with ProcessPoolExecutor(min(workers, len(batch)), mp_context=context) as pool:
        try:
            while True:
                for i in itertools.islice(queue, max(workers - len(futures), 0)):
                    futures[pool.submit(_call, function, jobs[i])] = i
                if not futures:
                    return
                done, _ = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    result, error = future.result()
                    yield futures.pop(future), result, error
        except BrokenProcessPool:
            lost.extend(futures.values())


def _run_ray(
    function: Callable[[Any], Any], jobs: Sequence[Any], pending: Sequence[int], executor: Executor
) -> _Finished:
    """Yield (index, result, error) of each drive as its Ray task finishes.

    Ray itself runs the task of a killed worker or a lost node again.
    """
    ray = import_package("ray")
    started = not ray.is_initialized()
    if started:
        _start_ray(ray, executor)
    try:
        call = ray.remote(num_cpus=1, max_retries=MAX_ATTEMPTS - 1)(_call_remotely)
        tasks = {call.remote(function, jobs[i]): i for i in pending}
        while tasks:
            done, _ = ray.wait(list(tasks), num_returns=1)
            for task in done:
                i = tasks.pop(task)
                try:
                    yield (i, *ray.get(task))
                except ray.exceptions.RayError as problem:
                    lines = str(problem).strip().splitlines()
                    yield i, None, f"Ray: {lines[0] if lines else type(problem).__name__}"
    finally:
        if started:
            ray.shutdown()


def _start_ray(ray: Any, executor: Executor) -> None:
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    if executor.address:
        options |= {"address": executor.address}
        del options["include_dashboard"]
    else:
        options |= {"num_cpus": executor.processes}
    try:
        ray.init(logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = executor.address or "this machine"
        raise UserError(f"--executor ray: no Ray cluster at {where}: {error}") from error
