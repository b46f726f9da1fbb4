"""Builds the Python environment of `make demo` and `make test`, unless it is up to date.

Uses only the standard library of Python 3.10 or later. Installs missing Debian packages, creates a
virtual environment with the pinned requirements, and compiles the underlay (ROS interface packages
without wheels). If a ROS 2 distribution is sourced, it is used instead of the ROS wheels, and the
underlay contains only packages that the distribution does not have.
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
        fcntl.flock(lock, fcntl.LOCK_EX)  # concurrent runs wait for each other
        return build_environment(venv)


def build_environment(venv: Path) -> int:
    """Bring the environment at `venv` up to date. Returns an exit code."""
    distribution = sourced_distribution()
    expected = fingerprint(distribution)
    stamp = venv / STAMP
    if stamp.is_file() and stamp.read_text() == expected and (venv / "bin/python").exists():
        return 0
    stamp.unlink(missing_ok=True)
    log(f"building {venv.name} with " + (f"ROS 2 {distribution}" if distribution else "ROS wheels"))
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
    stamp.write_text(expected)
    log("done")
    return 0


def sourced_distribution() -> str | None:
    """Name of the sourced ROS 2 distribution if its rclpy can be imported, or None."""
    name = os.environ.get("ROS_DISTRO")
    if name and os.environ.get("AMENT_PREFIX_PATH") and importable(Path(sys.executable), "rclpy"):
        return name
    return None


def fingerprint(distribution: str | None) -> str:
    """Hash of all inputs of the environment."""
    digest = hashlib.sha256(f"{sys.version}\0{distribution}\0".encode())
    sources = [Path(__file__), ROOT / "setup.py", ROOT / "setup.cfg"]
    for folder in ("requirements", "underlay"):
        sources += sorted(p for p in (ROOT / folder).rglob("*") if p.is_file())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def install_debian_packages(distribution: str | None) -> None:
    """Install the Debian packages that the wheels need and dpkg does not list as installed."""
    if shutil.which("dpkg-query") is None:
        log("not a Debian system; install these packages: " + " ".join(DEBIAN_PACKAGES))
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    required = list(DEBIAN_PACKAGES)
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        required.append(f"python{version}-dev")
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
        required.append(f"python{version}-venv")
    apt_install([p for p in required if not debian_package_installed(p)])


def install_distribution_packages(distribution: str, packages: list[str]) -> None:
    """Install interface packages that are missing in a sourced distribution from its repository."""
    apt_install([f"ros-{distribution}-{p.replace('_', '-')}" for p in packages])


def debian_package_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f=${Status}", package]
    result = subprocess.run(query, capture_output=True, text=True)
    return result.returncode == 0 and result.stdout.endswith("installed")


def apt_install(packages: list[str]) -> None:
    if not packages:
        return
    log("apt-get install " + " ".join(packages))
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*sudo, "apt-get", "update", "-qq"], env=environment)
    run([*sudo, "apt-get", "install", "-y", "-qq", *packages], env=environment)


def install_requirements(python: Path, distribution: str | None) -> None:
    files = ["core.txt", "training.txt", "development.txt", "docs.txt"]
    # No version pins with a distribution: cv_bridge is built against its numpy and OpenCV.
    pins: list[str] = []
    if not distribution:
        files.append("ros-wheels.txt")
        if sys.version_info >= (3, 11):  # the pinned versions do not support Python 3.10
            pins = ["-c", str(ROOT / "requirements" / "constraints.txt")]
    arguments = [a for f in files for a in ("-r", str(ROOT / "requirements" / f))]
    log("pip install " + " ".join(files))
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, *pins, *arguments])


def install_package(python: Path) -> None:
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def build_underlay(venv: Path, packages: tuple[str, ...] | list[str]) -> None:
    """Compile interface packages with the official generators and install them into the environment.

    There the libraries and modules are on the default search paths of the ROS wheels and of Python.
    """
    correct_cmake_exports(venv)
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
        log(f"compiling {package}")
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


def correct_cmake_exports(venv: Path) -> None:
    """Replace header paths of the build machine in the wheels' CMake exports by those of this Python."""
    query = "import sysconfig, numpy; print(sysconfig.get_paths()['include'], numpy.get_include())"
    result = subprocess.run(
        [str(venv / "bin/python"), "-c", query], capture_output=True, text=True, check=True
    )
    python_headers, numpy_headers = result.stdout.split()
    for export in (venv / "share").glob("*/cmake/*Export*.cmake"):
        text = export.read_text()
        corrected = re.sub(r"/opt/python/[^;\"]*?/numpy/_?core/include", numpy_headers, text)
        corrected = re.sub(r"/opt/python/[^;\"]*?/include/python3\.\d+", python_headers, corrected)
        if corrected != text:
            export.write_text(corrected)


def site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def importable(python: Path, module: str) -> bool:
    return (
        subprocess.run([str(python), "-c", f"import {module}"], capture_output=True).returncode == 0
    )


def run(command: list[str], env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command; with quiet, its output is printed only if it fails. Raises SystemExit."""
    result = subprocess.run(command, env=env, capture_output=quiet, text=True)
    if result.returncode:
        print((result.stdout or "") + (result.stderr or ""), file=sys.stderr)
        raise SystemExit(f"failed ({result.returncode}): {' '.join(command)}")


def log(text: str) -> None:
    print(f"[environment] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
