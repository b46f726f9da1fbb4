"""Runs a node in its own process until a signal, and shuts it down cleanly."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.signals import SignalHandlerOptions

from multimodal_perception.configuration import UserError


def spin(make_node: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """Run a node until Ctrl-C, SIGTERM or shutdown; returns an exit status.

    Signals set a flag instead of interrupting a callback, so that the node can end its threads.
    """
    arguments = list(args) if args is not None else None
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    stop = threading.Event()
    node = None
    try:
        node = make_node()
        executor.add_node(node)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        while rclpy.ok() and not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if isinstance(node, LifecycleNode):
            with suppress(Exception):
                node.trigger_shutdown()
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0
