"""Child processes that are terminated when their parent process ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        terminate_with_parent(parent.pid)
