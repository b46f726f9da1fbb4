"""Runs a node in its own process until a signal, and shuts it down cleanly."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.signals import SignalHandlerOptions

from multimodal_perception.configuration import UserError
from multimodal_perception.ros.arguments import (
    check_arguments,
    describe_ros_error,
    ensure_log_directory,
)
from multimodal_perception.ros.stop_signals import StopSignals, stop_signals


def spin(make_node: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """Run a node until Ctrl-C, SIGTERM or shutdown; returns an exit status.

    While the node runs, signals set a flag instead of interrupting a callback, so that it can end its
    threads. The process ends within 3 s after a signal at any moment, see stop_signals; this function
    does not return then.
    """
    arguments = list(sys.argv if args is None else args)
    with stop_signals() as stop:
        try:
            ensure_log_directory()
            check_arguments(arguments)
            rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 0
        except Exception as error:  # RCLError and others, which rclpy does not export
            print(f"error: ROS arguments: {describe_ros_error(error)}", file=sys.stderr)
            return 2
        status = _spin(make_node, stop)
    if stop.is_set():
        # Other nodes would take the services of this node as alive until its DDS lease expires. The
        # participant is deleted with the context.
        rclpy.utilities.g_default_context = None
        gc.collect()
        # The destructors of libraries take seconds on a busy computer, and nothing can end them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _spin(make_node: Callable[[], Any], stop: StopSignals) -> int:
    executor = SingleThreadedExecutor()
    node = None
    try:
        node = make_node()
        executor.add_node(node)
        stop.raises = False
        while rclpy.ok() and not stop.is_set():
            executor.spin_once(timeout_sec=0.1)
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    except UserError as error:
        if stop.is_set():  # the signal has interrupted the start
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        stop.raises = False
        if isinstance(node, LifecycleNode):
            with suppress(Exception):
                node.trigger_shutdown()
        if node is not None:
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0
