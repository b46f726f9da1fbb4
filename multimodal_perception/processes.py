"""Child processes that end with their parent process and do not react to Ctrl-C themselves."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Time that workers get to end after SIGTERM, before they are killed.
TERMINATION_S = 2.0


def terminate_with_parent(parent: int) -> None:
    """Make the calling child process receive SIGTERM when the thread that started it ends.

    parent: process id of the parent. Use it as `preexec_fn` of subprocess.Popen. It has no effect on
    systems other than Linux.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except AttributeError:
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before prctl was called
        os._exit(1)


def initialise_worker() -> None:
    """Initialiser of a process pool's workers: ignore Ctrl-C and end together with the parent.

    The parent handles Ctrl-C. Without this, a worker whose parent was killed waits forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM ends the worker, whatever handler the imported modules installed.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        terminate_with_parent(parent.pid)


class WorkerPool(ProcessPoolExecutor):
    """A process pool that can be interrupted at any moment.

    Workers never receive Ctrl-C, not even while they start, when an interrupt would break the pool and
    leave the parent waiting. If the `with` block is left by an exception, the workers are terminated
    within TERMINATION_S; their unfinished work is lost.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., None] = initialise_worker,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        """workers: number of processes. initializer: must call initialise_worker."""
        # The threads of Embree and of torch do not survive a fork.
        context = multiprocessing.get_context("spawn")
        super().__init__(workers, context, initializer, initargs)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call, see ProcessPoolExecutor; may start a worker."""
        with _interrupts_deferred():
            return super().submit(fn, *args, **kwargs)

    def terminate(self) -> None:
        """End all workers without waiting for their work."""
        processes = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        end = time.monotonic() + TERMINATION_S
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(TERMINATION_S)

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.shutdown(wait=True)
        else:
            self.terminate()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold back SIGINT; processes that are started meanwhile inherit the blocked signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[FrameType | None] = []
    previous = signal.signal(signal.SIGINT, lambda _, frame: received.append(frame))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        with suppress(TypeError):  # a handler that was not set from Python cannot be restored
            signal.signal(signal.SIGINT, previous)
    if received and callable(previous):
        previous(signal.SIGINT, received[0])
