"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Called in a child process: it gets SIGTERM when the thread that started it ends.

    parent: process id of the one that calls Popen, for which this can be `preexec_fn`. On systems
    other than Linux nothing is done.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except AttributeError:
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before prctl was called
        os._exit(1)


def begin_worker() -> None:
    """Called first in a worker of a process pool: Ctrl-C is the parent's to answer, and so is its end.

    A worker else waits for ever where its parent was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid)
