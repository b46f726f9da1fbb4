"""Builds the environment of `make demo` and `make test`; does nothing where it already fits.

Plain standard library, Python 3.10 or later. Installs missing Debian packages, makes a virtual
environment from the pinned requirements, and compiles the underlay (interface packages that have no
wheels). Where a ROS 2 distribution is sourced it is used as it is: no ROS wheels, and no underlay
for packages that it has.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".multimodal_perception_stamp"
DEBIAN_PACKAGES = ("libusb-1.0-0", "libgl1", "libgomp1", "cmake", "make", "g++")
UNDERLAY = ("tf2_msgs", "vision_msgs")
SUPPORTED_PYTHON = ((3, 10), (3, 12))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    venv = parser.parse_args().venv.absolute()
    low, high = SUPPORTED_PYTHON
    if not low <= sys.version_info[:2] <= high:
        print(f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]} is needed", file=sys.stderr)
        return 1
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_name(venv.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once take turns
        return build_environment(venv)


def build_environment(venv: Path) -> int:
    """Bring the environment at `venv` up to date. Returns an exit status."""
    drop_stale_kernels()
    distribution = sourced_distribution()
    wanted = fingerprint(distribution)
    stamp = venv / STAMP
    if stamp.is_file() and stamp.read_text() == wanted and (venv / "bin/python").exists():
        return 0
    stamp.unlink(missing_ok=True)
    say(f"building {venv.name} with " + (f"ROS 2 {distribution}" if distribution else "ROS wheels"))
    install_debian_packages(distribution)
    python = venv / "bin/python"
    flags = ["--system-site-packages"] if distribution else []
    run([sys.executable, "-m", "venv", *flags, str(venv)])
    install_requirements(python, distribution)
    install_package(python)
    missing = [p for p in UNDERLAY if not importable(python, p)] if distribution else UNDERLAY
    if missing and distribution:
        install_distribution_packages(distribution, missing)
    elif missing:
        build_underlay(venv, missing)
    stamp.write_text(wanted)
    say("done")
    return 0


def drop_stale_kernels() -> None:
    """Forget compiled kernels older than the code: numba does not see a change in another file."""
    package = ROOT / "multimodal_perception"
    cached = list(package.rglob("__pycache__/*.nb[ic]"))
    newest = max(p.stat().st_mtime for p in package.rglob("*.py"))
    if cached and newest > min(p.stat().st_mtime for p in cached):
        for path in cached:
            path.unlink(missing_ok=True)


def sourced_distribution() -> str | None:
    """Name of the ROS 2 distribution whose rclpy this shell can import, or None."""
    name = os.environ.get("ROS_DISTRO")
    if name and os.environ.get("AMENT_PREFIX_PATH") and importable(Path(sys.executable), "rclpy"):
        return name
    return None


def fingerprint(distribution: str | None) -> str:
    """Hash of everything that the environment is made from."""
    digest = hashlib.sha256(f"{sys.version}\0{distribution}\0".encode())
    sources = [Path(__file__), ROOT / "setup.py", ROOT / "setup.cfg"]
    for folder in ("requirements", "underlay"):
        sources += sorted(p for p in (ROOT / folder).rglob("*") if p.is_file())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def install_debian_packages(distribution: str | None) -> None:
    """Install what the wheels need of the system, if dpkg says that it is missing."""
    if shutil.which("dpkg-query") is None:
        say("not a Debian system; these must be there: " + " ".join(DEBIAN_PACKAGES))
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = list(DEBIAN_PACKAGES)
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        wanted.append(f"python{version}-dev")
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
        wanted.append(f"python{version}-venv")
    apt_install([p for p in wanted if not debian_package_installed(p)])


def install_distribution_packages(distribution: str, packages: list[str]) -> None:
    """Take interface packages that a sourced distribution lacks from its own repository."""
    apt_install([f"ros-{distribution}-{p.replace('_', '-')}" for p in packages])


def debian_package_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f=${Status}", package]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.returncode == 0 and answer.stdout.endswith("installed")


def apt_install(packages: list[str]) -> None:
    if not packages:
        return
    say("apt-get install " + " ".join(packages))
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*sudo, "apt-get", "update", "-qq"], env=environment)
    run([*sudo, "apt-get", "install", "-y", "-qq", *packages], env=environment)


def install_requirements(python: Path, distribution: str | None) -> None:
    files = ["core.txt", "training.txt", "development.txt"]
    # A distribution brings its own numpy and OpenCV, which cv_bridge is built against: no pins.
    pins: list[str] = []
    if not distribution:
        files.append("ros-wheels.txt")
        if sys.version_info >= (3, 11):  # the pinned versions have left Python 3.10 behind
            pins = ["-c", str(ROOT / "requirements" / "constraints.txt")]
    arguments = [a for f in files for a in ("-r", str(ROOT / "requirements" / f))]
    say("pip install " + " ".join(files))
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, *pins, *arguments])


def install_package(python: Path) -> None:
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def build_underlay(venv: Path, packages: tuple[str, ...] | list[str]) -> None:
    """Compile interface packages with the official generators into the environment's own prefix.

    There the wheels' bootstrapper finds the libraries, and Python the modules, without any path.
    """
    mend_exports(venv)
    libraries = [str(venv / "lib"), *map(str, site_packages(venv).glob("ros_*.libs"))]
    environment = {
        **os.environ,
        "CMAKE_PREFIX_PATH": str(venv),
        "AMENT_PREFIX_PATH": str(venv),
        "PYTHONPATH": str(site_packages(venv)),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    for package in packages:
        say(f"compiling {package}")
        build = venv / "build" / package
        shutil.rmtree(build, ignore_errors=True)
        configure = ["cmake", "-S", str(ROOT / "underlay" / package), "-B", str(build)]
        configure += [f"-DPython3_EXECUTABLE={venv / 'bin/python'}", "-DBUILD_TESTING=OFF"]
        configure += ["-DPython3_FIND_VIRTUALENV=ONLY", f"-DCMAKE_INSTALL_PREFIX={venv}"]
        configure += ["-DCMAKE_BUILD_TYPE=Release", "-Wno-dev"]
        run(configure, env=environment, quiet=True)
        jobs = str(os.cpu_count() or 1)
        run(["cmake", "--build", str(build), "-j", jobs], env=environment, quiet=True)
        run(["cmake", "--install", str(build)], env=environment, quiet=True)
        shutil.rmtree(build, ignore_errors=True)


def mend_exports(venv: Path) -> None:
    """Point the wheels' CMake exports at this Python's headers instead of their build machine's."""
    query = "import sysconfig, numpy; print(sysconfig.get_paths()['include'], numpy.get_include())"
    answer = subprocess.run(
        [str(venv / "bin/python"), "-c", query], capture_output=True, text=True, check=True
    )
    python_headers, numpy_headers = answer.stdout.split()
    for export in (venv / "share").glob("*/cmake/*Export*.cmake"):
        text = export.read_text()
        mended = re.sub(r"/opt/python/[^;\"]*?/numpy/_?core/include", numpy_headers, text)
        mended = re.sub(r"/opt/python/[^;\"]*?/include/python3\.\d+", python_headers, mended)
        if mended != text:
            export.write_text(mended)


def site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def importable(python: Path, module: str) -> bool:
    return (
        subprocess.run([str(python), "-c", f"import {module}"], capture_output=True).returncode == 0
    )


def run(command: list[str], env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command; a quiet one's output is shown only when it fails. Raises SystemExit."""
    result = subprocess.run(command, env=env, capture_output=quiet, text=True)
    if result.returncode:
        print((result.stdout or "") + (result.stderr or ""), file=sys.stderr)
        raise SystemExit(f"failed ({result.returncode}): {' '.join(command)}")


def say(text: str) -> None:
    print(f"[environment] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
