"""Watch the sensors and results in a browser, in the native Rerun viewer, or record them.

Without PATH, the sensors and outputs of a running perception_node are shown. With PATH, the pipeline
processes recorded data or a simulated drive.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from multimodal_perception.cli.recordings import open_recording, print_notes
from multimodal_perception.configuration import UserError, load
from multimodal_perception.datasets.open_dataset import DATASET_NAMES, PATH_HELP
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.visualization import live_view
from multimodal_perception.visualization.live_view import ServerConfig
from multimodal_perception.visualization.live_view_blueprint import sensor_blueprint
from multimodal_perception.visualization.recording import flush, save
from multimodal_perception.visualization.rerun_log import APPLICATION, RerunLog, import_rerun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", help=f"{PATH_HELP}; without it, a running perception_node is shown"
    )
    parser.add_argument(
        "--dataset", choices=DATASET_NAMES, help="format of PATH (default: detected from its files)"
    )
    parser.add_argument(
        "--rig",
        help="rig file, or the name of a shipped rig (default: that of the running node; with PATH, "
        "that of the data)",
    )
    parser.add_argument(
        "--pipeline",
        type=Path,
        help="with PATH: YAML file with the keys below `pipeline:` of config/perception.yaml",
    )
    parser.add_argument("--namespace", default="", help="namespace of the running node")
    parser.add_argument(
        "--global-tf",
        action="store_true",
        help="with --namespace: use /tf and /tf_static instead of tf and tf_static in the namespace",
    )
    parser.add_argument(
        "--use-sim-time", action="store_true", help="use the time of the topic /clock"
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        choices=live_view.OPTIONAL_INPUTS,
        default=[],
        help="do not subscribe to these; the node computes masks and 2D boxes only for subscribers",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=10.0,
        help="maximum rate of the readings of a running node, in Hz (default: 10)",
    )
    parser.add_argument("--frames", type=int, help="end after this many frames")
    _add_viewer_arguments(parser)


def _add_viewer_arguments(parser: argparse.ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--web", action="store_true", help="serve a web page for browsers (the default)"
    )
    target.add_argument("--native", action="store_true", help="open the native viewer")
    target.add_argument("--save", type=Path, help="write a .rrd file instead")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address on which the viewer listens; 0.0.0.0 for all networks, without a password "
        "(default: 127.0.0.1, this computer only)",
    )
    parser.add_argument(
        "--port", type=int, default=9876, help="port of the data (gRPC; default: 9876)"
    )
    parser.add_argument(
        "--web-port", type=int, default=9090, help="port of the web page (default: 9090)"
    )
    parser.add_argument(
        "--memory",
        type=int,
        default=512,
        help="maximum size in MiB of the data kept for viewers; the oldest is dropped (default: 512)",
    )


def run(args: argparse.Namespace) -> int:
    rerun = import_rerun()
    if args.save is not None and args.save.suffix != ".rrd":
        raise UserError(f"--save {args.save}: the suffix must be .rrd")
    if args.path is None:
        for name in ("dataset", "pipeline"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} is only allowed with PATH")
        return _show_running_node(args, rerun)
    if args.namespace or args.global_tf or args.use_sim_time or args.skip:
        options = "--namespace, --global-tf, --use-sim-time and --skip"
        raise UserError(f"{options} are only allowed without PATH")
    return _show_recording(args, rerun)


class _View(NamedTuple):
    """Where the data goes. process: the viewer or its server, None for a file."""

    stream: Any
    process: subprocess.Popen[bytes] | None
    save_path: Path | None

    def check(self, frames: int) -> None:
        """Raise UserError if the file cannot be written, or the viewer was closed."""
        if self.save_path is not None:
            flush(self.stream, self.save_path, frames)
        if self.process is not None and self.process.poll() is not None:
            raise UserError(f"the Rerun viewer has ended (exit code {self.process.returncode})")


@contextmanager
def _open_view(args: argparse.Namespace, rerun: Any) -> Iterator[_View]:
    """The viewer or file that the arguments select, until the end of the `with` block."""
    if args.save is not None:
        stream = rerun.RecordingStream(APPLICATION)
        save(stream, args.save)
        try:
            yield _View(stream, None, args.save)
        finally:
            stream.disconnect()
        return
    web_port = None if args.native else args.web_port
    config = ServerConfig(live_view.resolve_host(args.host), args.port, web_port, args.memory)
    if not config.is_local:
        print(
            f"warning: {config.host}: everyone in the network can watch, without a password or "
            "encryption; an SSH tunnel to 127.0.0.1 is safer",
            file=sys.stderr,
        )
    with live_view.viewer_process(config) as process:
        stream = live_view.connect(rerun, config)
        if web_port is not None:
            print(f"browser: {config.page_url}")
        print(f"native viewer: rerun --connect {config.data_url}", flush=True)
        try:
            yield _View(stream, process, None)
        finally:
            if process.poll() is None:
                stream.flush()
            stream.disconnect()


def _show_recording(args: argparse.Namespace, rerun: Any) -> int:
    from tqdm import tqdm

    from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline

    rig = None if args.rig is None else load_rig(resolve_rig_path(args.rig))
    dataset = open_recording(args.path, args.dataset, rig)
    config = None if args.pipeline is None else load(PipelineConfig, args.pipeline)
    with _open_view(args, rerun) as view:
        pipeline = build_pipeline(config)
        view.stream.send_blueprint(sensor_blueprint(rerun, dataset.rig))
        log = RerunLog(rerun, view.stream, dataset.rig)
        total = len(dataset) if args.frames is None else min(args.frames, len(dataset))
        count = 0
        for index in tqdm(range(total), unit="frame"):
            frame = dataset[index]
            log.log_result(frame, pipeline.process(frame))
            count += 1
            view.check(count)
        print_notes(dataset)
        if view.process is None:
            print(f"{args.save}: {count} frames")
            return 0
        print(f"{count} frames; Ctrl-C ends the viewer", flush=True)
        _wait(view)
    return 0


def _wait(view: _View) -> None:
    """Wait until Ctrl-C, or until the native viewer is closed."""
    assert view.process is not None
    try:
        while view.process.poll() is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        return


def _show_running_node(args: argparse.Namespace, rerun: Any) -> int:
    import rclpy

    from multimodal_perception.ros.node_process import prepare_environment
    from multimodal_perception.ros.spinning import spin
    from multimodal_perception.ros.view_node import ViewNode

    prepare_environment()
    ros = ["view", "--ros-args", "-p", f"use_sim_time:={str(args.use_sim_time).lower()}"]
    if args.namespace:
        ros += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
        if not args.global_tf:
            ros += ["-r", "/tf:=tf", "-r", "/tf_static:=tf_static"]
    opened: list[_View] = []
    with ExitStack() as stack:

        def open_log(rig: Rig) -> RerunLog:
            view = stack.enter_context(_open_view(args, rerun))
            opened.append(view)
            view.stream.send_blueprint(sensor_blueprint(rerun, rig, live=True))
            return RerunLog(rerun, view.stream, rig)

        def frames(node: ViewNode) -> int:
            return node.counts["timing" if "sensors" in args.skip else "frames"]

        def check(node: ViewNode) -> None:
            opened[0].check(frames(node))
            if args.frames is not None and frames(node) >= args.frames:
                rclpy.try_shutdown()

        def on_end(node: ViewNode) -> None:
            # spin() may end the process, and then the `with` block has no end.
            stack.close()
            if args.save is not None:
                print(f"{args.save}: {frames(node)} frames")

        return spin(lambda: ViewNode(args.rig, open_log, check, on_end, args.skip, args.rate), ros)
