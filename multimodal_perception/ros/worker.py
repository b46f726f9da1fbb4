"""Processing on a background thread: the newest item is processed, dropped ones are counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFirstWorker(Generic[T]):
    """One thread that processes the newest submitted item; an older one that is waiting is dropped.

    The executor's thread must not wait for inference: it would lose messages and process old frames
    late. dropped: items replaced by a newer one. failed: items whose processing raised an error.
    """

    def __init__(
        self,
        process: Callable[[T], None],
        on_error: Callable[[Exception], None],
        name: str = "inference",
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """on_ready: called on the thread when it has processed an item and none is waiting."""
        self._process = process
        self._on_error = on_error
        self._on_ready = on_ready
        self._condition = threading.Condition()
        self._waiting: list[T] = []
        self._stopping = False
        self._busy = False
        self.dropped = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether no item is being processed or waiting."""
        with self._condition:
            return not self._busy and not self._waiting

    def submit(self, item: T) -> None:
        """Submit one item; returns immediately."""
        with self._condition:
            self.dropped += len(self._waiting)
            self._waiting = [item]
            self._condition.notify()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the thread after the item that it is processing.

        Waits, because a thread inside a native library when the interpreter exits would abort the
        process. Returns False if the thread is still busy after the timeout.
        """
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.pop()
                self._busy = True
            try:
                self._process(item)
            except Exception as error:
                # An item that cannot be processed must not end the thread.
                self.failed += 1
                self._on_error(error)
            with self._condition:
                self._busy = False
                is_ready = not self._waiting
            if is_ready:
                self._on_ready()
