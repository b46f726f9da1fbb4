"""SIGINT and SIGTERM end the process within SHUTDOWN_TIMEOUT_S, also during a native computation."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The process ends at the latest this long after the first signal, seconds.
SHUTDOWN_TIMEOUT_S = 2.5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Whether a stop signal has arrived; see stop_signals.

    raises: whether the signal raises KeyboardInterrupt in the main thread. Set it to False as soon as
    the main loop polls `is_set`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.raises = True

    def is_set(self) -> bool:
        """Return whether a stop signal has arrived."""
        return self._event.is_set()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Signal handler, called on the main thread between two instructions of Python."""
        self._event.set()
        if self.raises:
            raise KeyboardInterrupt


@contextmanager
def stop_signals(timeout_s: float = SHUTDOWN_TIMEOUT_S) -> Iterator[StopSignals]:
    """Handle SIGINT and SIGTERM in this block; must be entered on the main thread.

    Python calls a signal handler only when the main thread leaves a native function, and some callers,
    such as the compiler of numba, discard the exception that it raises. A second thread receives each
    signal at once: if the process has not ended `timeout_s` later, the thread ends it with exit status
    0, also after the block, while Python waits for threads. Nothing is lost by that: the node writes no
    files, and caches are written to temporary files that are renamed.
    """
    stop = StopSignals()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    has_ended = threading.Event()
    watch = threading.Thread(
        target=_end_process, args=(receiver, has_ended, timeout_s), name="stop signals", daemon=True
    )
    watch.start()
    previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, stop.handle) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        stop.raises = False
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        if not stop.is_set():
            has_ended.set()
            sender.close()  # ends the thread
            watch.join(1.0)
            receiver.close()


def _end_process(receiver: socket.socket, has_ended: threading.Event, timeout_s: float) -> None:
    numbers = receiver.recv(1)
    while numbers and numbers[0] not in STOP_SIGNALS:
        numbers = receiver.recv(1)
    if not numbers or has_ended.wait(timeout_s):
        return
    print(
        f"ended {timeout_s:g} s after {signal.Signals(numbers[0]).name} without waiting for a "
        "computation that was still running",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
