"""Fixtures of all tests. ROS settings are made here, before anything imports rclpy."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from multimodal_perception.extras import EXTRAS, MissingPackageError
from multimodal_perception.resources import share_path

if TYPE_CHECKING:
    from multimodal_perception.simulation.simulation import Observation

# `from test.x import y` means this folder. Python has a package of the same name, which pytest 7 finds.
_TESTS = sys.modules.setdefault("test", ModuleType("test"))
_TESTS.__path__ = [str(Path(__file__).resolve().parent)]

# A deadline would time the machine, and the compilation of kernels.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Set by a test run that has chosen its domain, for the workers of pytest-xdist that it starts.
DOMAIN_WAS_CHOSEN = "MULTIMODAL_PERCEPTION_TEST_CHOSE_DOMAIN"
# Name of a worker of pytest-xdist, such as gw1.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")


def _hold_domain() -> tuple[str, socket.socket | None]:
    """A ROS domain that no other test process on this machine has, and what holds it till it ends.

    0 is everybody's, and above 101 DDS's ports are those of outgoing connections. If the user has set
    ROS_DOMAIN_ID, it is used, by the worker gwN with N added.
    """
    named = os.environ.get("ROS_DOMAIN_ID")
    if named and DOMAIN_WAS_CHOSEN not in os.environ:
        return str(int(named) + int(WORKER[2:] if WORKER else 0)), None
    os.environ[DOMAIN_WAS_CHOSEN] = "1"
    for domain in random.SystemRandom().sample(range(1, 102), 101):
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0multimodal_perception/test/domain/{domain}")
        except OSError:  # another run has it
            held.close()
        else:
            return str(domain), held
    raise pytest.UsageError("other test runs have all ROS domains: name one in ROS_DOMAIN_ID")


# Each test run talks to itself alone, whatever else runs on this machine or network; so do the
# processes that it starts.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"], _HELD = _hold_domain()
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(share_path("config/dds/fastdds_shm.xml"))
os.environ.pop("ROS_NAMESPACE", None)
# Results and start times of the tests must not depend on measured times.
os.environ["MULTIMODAL_PERCEPTION_MEASURE"] = "never"

# The folders in which `make test` runs tests marked serial.
SERIAL = ("test/ros/", "test/benchmarks/")
# A failed test that is marked live runs again up to RERUNS times, each after a pause, seconds.
RERUNS, RERUN_PAUSE_S = 2, 5.0
# Tests that share fixtures of a session, by folder. The tests of any other file also stay together.
GROUPS = ("test/training/bev_fusion/", "test/training/recipe/", "test/detection/bev_fusion/")
# Order of the tests with pytest-xdist: long ones first, so that all workers end at about the same time,
# and those with deadlines last, when all kernels are compiled.
FIRST = (*GROUPS, "test/benchmarks/", "test/test_examples.py", "test/evaluation/")
LAST = ("test/ros/",)


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of pytest-xdist one thread."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make live tests rerun, and assign the tests of a file or group to the same worker of xdist."""

    def path(item: pytest.Item) -> str:
        return item.path.relative_to(config.rootpath).as_posix()

    for item in items:
        if item.get_closest_marker("serial") and not path(item).startswith(SERIAL):
            raise pytest.UsageError(f"{path(item)}: tests marked serial must be in {SERIAL}")
        if item.get_closest_marker("flaky"):
            raise pytest.UsageError(f"{item.nodeid}: only tests marked live are rerun")
        # Without pytest-rerunfailures, for example in `colcon test`, no test is rerun.
        if item.get_closest_marker("live") and config.pluginmanager.hasplugin("rerunfailures"):
            item.add_marker(pytest.mark.flaky(reruns=RERUNS, reruns_delay=RERUN_PAUSE_S))
    if WORKER is None:
        return
    for item in items:
        group = next((g for g in GROUPS if path(item).startswith(g)), path(item))
        item.add_marker(pytest.mark.xdist_group(group))

    def position(item: pytest.Item) -> int:
        first = [n for n, prefix in enumerate(FIRST) if path(item).startswith(prefix)]
        return first[0] if first else len(FIRST) + path(item).startswith(LAST)

    items.sort(key=position)


ABSENT = re.compile(r"No module named '(\w+)")


def pytest_addoption(parser: Any) -> None:
    parser.addoption(
        "--without",
        default="",
        metavar="EXTRA[,EXTRA]",
        help="skip tests that fail because a package of these extras is not installed, "
        "for example: train,view. Without this option, they fail",
    )


def _absent_modules(config: Any) -> dict[str, str]:
    """Extra by module, of the modules that are not installed and whose extra is named in --without."""
    names = {name for name in config.getoption("--without").split(",") if name}
    known = {extra.name: extra.packages for extra in EXTRAS}
    unknown = names - known.keys()
    if unknown:
        raise pytest.UsageError(f"--without: allowed: {', '.join(known)}; got {sorted(unknown)}")
    modules = {module: name for name in names for module in known[name]}
    return {m: name for m, name in modules.items() if importlib.util.find_spec(m) is None}


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: Any) -> Iterator[None]:
    """Skip a test file that imports an absent module; see --without."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        absent = _absent_modules(collector.config)
        missing = [m for m in ABSENT.findall(str(report.longrepr)) if m in absent]
        if missing:
            reason = f"Skipped: needs {missing[-1]} (extra {absent[missing[-1]]})"
            report.outcome, report.longrepr = "skipped", (str(collector.fspath), 0, reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Skip a test that imports an absent module; see --without."""
    outcome: Any = yield
    report = outcome.get_result()
    if not report.failed or call.excinfo is None:
        return
    absent = _absent_modules(item.config)
    error = call.excinfo.value
    missing = getattr(error, "module", "") if isinstance(error, MissingPackageError) else ""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
    if missing in absent:
        reason = f"Skipped: needs {missing} (extra {absent[missing]})"
        report.outcome, report.longrepr = "skipped", (str(item.fspath), 0, reason)


SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def night_street() -> Observation:
    """A simulated street by night, seen by a camera and a thermal camera."""
    from multimodal_perception.rig import load_rig, resolve_rig_path
    from multimodal_perception.simulation.simulation import Simulation

    rig = load_rig(resolve_rig_path("simulation"))
    rig = replace(rig, sensors={n: rig.sensors[n] for n in ("camera_front", "thermal_front")})
    return Simulation("urban_street", rig, 10_777, 30, ("night",)).observe(20)
