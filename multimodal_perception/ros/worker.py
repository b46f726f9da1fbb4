"""Work off the executor's thread: the newest frame wins, each one passed over is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFirstWorker(Generic[T]):
    """One thread that processes the newest item given; an older one still waiting is dropped."""

    def __init__(
        self,
        process: Callable[[T], None],
        on_error: Callable[[Exception], None],
        name: str = "inference",
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._condition = threading.Condition()
        self._waiting: list[T] = []
        self._stopping = False
        self.dropped = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over one item; returns at once."""
        with self._condition:
            self.dropped += len(self._waiting)
            self._waiting = [item]
            self._condition.notify()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Finish the item in work and end the thread. False if it is still busy after the timeout."""
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
            try:
                self._process(item)
            except Exception as error:
                # One frame that cannot be processed must not silence the node.
                self.failed += 1
                self._on_error(error)
