"""Feed mutated messages, files and frames to the package and report every unexpected failure.

A batch runs in a worker process with a limit of memory; a batch that does not end is a hang. Every case
depends on the seed, the batch and its number only, so that a reported failure can be repeated with
`--first-batch N --count BATCH_SIZE`. After Ctrl-C, the results so far are reported with the number of
the batch with which to continue.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import shutil
import tempfile
import traceback
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from multimodal_perception.benchmarks.report import add_json_argument, print_report
from multimodal_perception.configuration import UserError
from multimodal_perception.processes import WorkerPool, initialise_worker

KINDS = ("messages", "files", "frames")
BATCH_SIZE = {"messages": 5000, "files": 100, "frames": 200}
# A batch takes seconds; one that takes longer than this hangs, unless the computer is very busy.
HANG_S = 300.0
# Exit status of a program that Ctrl-C ended.
INTERRUPTED = 130
# Memory that a worker may allocate; a file whose header states a larger size must be refused before
# allocation.
MEMORY_BYTES = 8 << 30
MAX_REPORTED = 20


@dataclass
class Outcome:
    """Result of a batch: cases by outcome, and the failures with their position."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    memory_bytes: int = 0


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("kind", choices=KINDS, help="what is mutated")
    parser.add_argument(
        "--count", type=int, default=10_000, help="number of mutated inputs (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the mutations")
    parser.add_argument(
        "--first-batch", type=int, default=0, help="number of the first batch, to repeat a failure"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="number of processes"
    )
    parser.add_argument(
        "--seconds-per-batch",
        type=float,
        default=HANG_S,
        help=f"time after which a batch counts as a hang, seconds (default: {HANG_S:.0f}); increase it "
        "on a busy computer",
    )
    parser.add_argument(
        "--target", action="append", help="kind of file, may be repeated (default: all)"
    )
    add_json_argument(parser)


def run(args: Namespace) -> int:
    """Run the benchmark. Returns 1 if there was an unexpected failure, 130 after Ctrl-C."""
    batches = _batches(args)
    targets = len({target for target, _ in batches})
    total = Outcome()
    bar = tqdm(total=len(batches), unit="batch", desc=f"fuzz {args.kind}")
    interrupted = False
    try:
        while batches:
            batches = _run_batches(batches, args, total, bar)
    except KeyboardInterrupt:
        interrupted = True
    bar.close()
    result: dict[str, Any] = {
        **{name: total.counts[name] for name in sorted(total.counts)},
        "failures": len(total.failures),
        "max_memory_growth_mb": total.memory_bytes / 1e6,
    }
    if interrupted:
        result["continue_with_first_batch"] = args.first_batch + bar.n // targets
    print_report(f"fuzz {args.kind}", result, args.json)
    for failure in total.failures[:MAX_REPORTED]:
        print(failure)
    if interrupted:
        return INTERRUPTED
    return 1 if total.failures else 0


def _batches(args: Namespace) -> list[tuple[str, int]]:
    """(target, batch number) of all batches."""
    targets = [args.kind]
    if args.kind == "files":
        from multimodal_perception.benchmarks.fuzzing.files import FILE_TARGETS

        targets = args.target or list(FILE_TARGETS)
        unknown = [t for t in targets if t not in FILE_TARGETS]
        if unknown:
            raise UserError(
                f"--target: allowed: {', '.join(FILE_TARGETS)}; got {', '.join(unknown)}"
            )
    size = BATCH_SIZE[args.kind]
    count = max(1, -(-args.count // (size * len(targets))))
    return [(t, args.first_batch + k) for k in range(count) for t in targets]


def _run_batches(
    batches: list[tuple[str, int]], args: Namespace, total: Outcome, bar: tqdm[Any]
) -> list[tuple[str, int]]:
    """Run batches until one crashes or hangs; returns those that are left for a new pool."""
    with WorkerPool(args.workers, _initialise) as pool:
        tasks = [(pool.submit(_run_batch, args.kind, t, args.seed, k), (t, k)) for t, k in batches]
        for position, (task, (target, number)) in enumerate(tasks):
            try:
                outcome = task.result(args.seconds_per_batch)
            except (BrokenProcessPool, FutureTimeoutError) as error:
                what = "hangs" if isinstance(error, FutureTimeoutError) else "ends the process"
                total.failures.append(f"{target}: batch {number} or one beside it {what}")
                pool.terminate()
                bar.update()
                return batches[position + 1 :]
            total.counts += outcome.counts
            total.failures += outcome.failures
            total.memory_bytes = max(total.memory_bytes, outcome.memory_bytes)
            bar.update()
    return []


def _initialise() -> None:
    initialise_worker()
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, hard))
    # Image decoders write to the terminal.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _run_batch(kind: str, target: str, seed: int, number: int) -> Outcome:
    outcome = Outcome()
    before = _memory_bytes()
    if kind == "files":
        _fuzz_files(target, seed, number, outcome)
    else:
        from multimodal_perception.benchmarks.fuzzing.messages import fuzz_frames, fuzz_messages

        _consume(
            {"messages": fuzz_messages, "frames": fuzz_frames}[kind],
            (kind, seed, number),
            BATCH_SIZE[kind],
            outcome,
        )
    outcome.memory_bytes = _memory_bytes() - before
    return outcome


def _consume(
    function: Callable[[int, int], Iterator[int]],
    batch: tuple[str, int, int],
    size: int,
    outcome: Outcome,
) -> None:
    """Run a batch of messages or frames up to its first failure."""
    kind, seed, number = batch
    done = 0
    try:
        for number_done in function(seed * 1_000_003 + number, size):
            done = number_done
    except Exception as error:
        outcome.failures.append(_describe(kind, number, done, error))
    outcome.counts[kind] += done


def _fuzz_files(target: str, seed: int, number: int, outcome: Outcome) -> None:
    from multimodal_perception.benchmarks.fuzzing.files import FILE_TARGETS, mutate_file

    definition = FILE_TARGETS[target]
    with tempfile.TemporaryDirectory() as folder:
        valid = Path(folder, "valid")
        valid.mkdir()
        definition.write(valid)
        definition.read(valid)  # a target whose valid files are refused would test nothing
        names = [p.relative_to(valid) for p in sorted(valid.rglob("*")) if p.is_file()]
        for case in range(BATCH_SIZE["files"]):
            rng = np.random.default_rng((seed, number, case))
            copy = Path(folder, "copy")
            shutil.copytree(valid, copy)
            mutate_file(copy / names[rng.integers(0, len(names))], rng)
            try:
                definition.read(copy)
                outcome.counts[f"{target}.read"] += 1
            except UserError:
                outcome.counts[f"{target}.refused"] += 1
            except Exception as error:
                outcome.counts[f"{target}.failed"] += 1
                outcome.failures.append(_describe(target, number, case, error))
            shutil.rmtree(copy)


def _describe(target: str, number: int, case: int, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:120]
    return f"{target}: batch {number}, case {case}: {type(error).__name__} at {place}: {text}"


def _memory_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
