"""Builds the Python environment of `make demo` and `make test`, unless it is up to date.

Uses only the standard library of Python 3.10 or later. Installs missing Debian packages, creates a
virtual environment with the pinned requirements, and compiles the underlay (ROS interface packages
without wheels). If a ROS 2 distribution is sourced, it is used instead of the ROS wheels, its Python
packages keep their versions, and the underlay has only packages that the distribution does not have.

`--versions ubuntu-22.04` and `ubuntu-24.04` build the environments of `make test-min` and
`make test-ubuntu-24.04`: the versions of the Python packages of these systems, as far as wheels exist.
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
from collections.abc import Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".multimodal_perception_stamp"
DEBIAN_PACKAGES = ("libusb-1.0-0", "libgl1", "libgomp1", "cmake", "make", "g++")
UNDERLAY = ("tf2_msgs", "vision_msgs")
# Interfaces of optional outputs, for their tests. A distribution has them where they are installed.
OPTIONAL_UNDERLAY = ("map_msgs", "nav2_msgs", "autoware_perception_msgs")
SUPPORTED_PYTHON = ((3, 10), (3, 12))
# Python of each set of versions; requirements/SET.txt has the versions. `current` uses any Python.
VERSION_SETS = {"current": None, "ubuntu-22.04": (3, 10), "ubuntu-24.04": (3, 12)}
# Files in requirements/. The live view needs numpy 2, which neither Ubuntu nor a distribution on it has;
# wheels of torch for Python 3.10 and 3.12 have gigabytes of CUDA libraries; tensorrt has no wheel.
TESTED_ROLES = ("core", "bags", "sim", "report", "openvino", "onnx", "ray", "test")
ALL_ROLES = (*TESTED_ROLES, "train", "tensorrt", "view", "development", "docs")
# Packages that a distribution's C++ bindings are built against, and the newest numpy API of onnxruntime.
DISTRIBUTION_PACKAGES = ("numpy", "scipy", "numba", "PyYAML", "Pillow", "matplotlib", "pandas")
ONNXRUNTIME_NUMPY = (1, 21, 6)
ONNXRUNTIME_DEPENDENCIES = ("flatbuffers", "packaging", "protobuf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--versions", choices=VERSION_SETS, default="current")
    arguments = parser.parse_args()
    venv, versions = arguments.venv.absolute(), arguments.versions
    needed = VERSION_SETS[versions]
    if needed is not None and sys.version_info[:2] != needed:
        return run_with_python(needed)
    low, high = SUPPORTED_PYTHON
    if not low <= sys.version_info[:2] <= high:
        print(f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]} is needed", file=sys.stderr)
        return 1
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_name(venv.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # concurrent runs wait for each other
        return build_environment(venv, versions)


def run_with_python(version: tuple[int, int]) -> int:
    """Run this script with another Python and return its exit code, or 1 if it is not installed."""
    name = "python{}.{}".format(*version)
    python = find_python(name)
    if python is None:
        print(f"{name} is not installed; install it (pyenv, deadsnakes, uv)", file=sys.stderr)
        return 1
    return subprocess.run([str(python), __file__, *sys.argv[1:]], check=False).returncode


def find_python(name: str) -> Path | None:
    """A Python that runs, such as python3.10: on PATH, or of pyenv, whose shims may not run."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [Path(f) for f in os.environ.get("PATH", "").split(os.pathsep) if f]
    folders += sorted(pyenv.glob(f"versions/{name.removeprefix('python')}*/bin"), reverse=True)
    for folder in folders:
        python = folder / name
        if os.access(python, os.X_OK):
            result = subprocess.run([str(python), "-c", "import venv"], capture_output=True)
            if result.returncode == 0:
                return python
    return None


def build_environment(venv: Path, versions: str = "current") -> int:
    """Bring the environment at `venv` up to date. versions: see VERSION_SETS. Returns an exit code."""
    distribution = sourced_distribution() if versions == "current" else None
    expected = fingerprint(distribution, versions)
    stamp = venv / STAMP
    if stamp.is_file() and stamp.read_text() == expected and (venv / "bin/python").exists():
        return 0
    stamp.unlink(missing_ok=True)
    source = f"ROS 2 {distribution}" if distribution else "ROS wheels"
    log(f"building {venv.name} with {source}, versions: {versions}")
    install_debian_packages(distribution)
    python = venv / "bin/python"
    flags = ["--system-site-packages"] if distribution else []
    run([sys.executable, "-m", "venv", *flags, str(venv)])
    if distribution:
        install_beside_distribution(python)
    else:
        install_requirements(python, versions)
    install_package(python)
    missing: Sequence[str] = (*UNDERLAY, *OPTIONAL_UNDERLAY)
    if distribution:
        missing = [p for p in UNDERLAY if not importable(python, p)]
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


def fingerprint(distribution: str | None, versions: str = "current") -> str:
    """Hash of all inputs of the environment."""
    digest = hashlib.sha256(f"{sys.version}\0{distribution}\0{versions}\0".encode())
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


def install_requirements(python: Path, versions: str) -> None:
    """Install the requirements with ROS wheels in exact versions."""
    roles = ALL_ROLES if versions == "current" else TESTED_ROLES
    pins: list[str] = []
    if versions != "current":
        pins = ["-c", str(requirement_file(versions))]
    elif sys.version_info >= (3, 11):  # the pinned versions do not support Python 3.10
        pins = ["-c", str(requirement_file("constraints"))]
    pip_install(python, [*pins, *requirement_arguments((*roles, "ros-wheels"))])


def install_beside_distribution(python: Path) -> None:
    """Install the requirements into an environment that contains the packages of a distribution.

    cv_bridge and other bindings are built against the distribution's numpy and OpenCV. Their versions
    must not change, so that they become constraints; OpenCV, which pip does not find among the
    distribution's packages, is left out of the requirements.
    """
    pins = distribution_constraints(python)
    constraints = python.parent.parent / "distribution_constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
    excluded = {"opencv-python-headless"} if importable(python, "cv2") else set()
    numpy = tuple(int(part) for part in pins.get("numpy", "2.0.0").split(".")[:3])
    if numpy < ONNXRUNTIME_NUMPY:
        # The wheels require 1.21.6, and run with 1.21.5 of Ubuntu 22.04.
        excluded.add("onnxruntime")
        pip_install(python, list(ONNXRUNTIME_DEPENDENCIES))
        pip_install(python, ["--no-deps", "onnxruntime>=1.15,<1.24"])
    roles = [r for r in ALL_ROLES if r != "view" or numpy >= (2,)]
    listed = python.parent.parent / "distribution_requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in requirement_lines(roles, excluded)))
    pip_install(python, ["-c", str(constraints), "-r", str(listed)])


def distribution_constraints(python: Path) -> dict[str, str]:
    """Versions of DISTRIBUTION_PACKAGES that an interpreter already has, by name."""
    code = (
        "import sys\nfrom importlib import metadata\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, metadata.version(name))\n"
        "    except metadata.PackageNotFoundError: pass\n"
    )
    command = [str(python), "-c", code, *DISTRIBUTION_PACKAGES]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in output.splitlines())


def requirement_lines(roles: Sequence[str], excluded: Collection[str]) -> list[str]:
    """Lines of requirement files and of the files that they include, without the excluded packages."""
    lines: list[str] = []
    for role in roles:
        for line in requirement_file(role).read_text().splitlines():
            included = re.match(r"-r (\S+)\.txt$", line)
            name = re.match(r"[\w.-]+", line)
            if included:
                lines += requirement_lines([included[1]], excluded)
            elif name and name[0] not in excluded:
                lines.append(line)
    return list(dict.fromkeys(lines))


def requirement_file(name: str) -> Path:
    return ROOT / "requirements" / f"{name}.txt"


def requirement_arguments(roles: Sequence[str]) -> list[str]:
    return [a for role in roles for a in ("-r", str(requirement_file(role)))]


def pip_install(python: Path, arguments: list[str]) -> None:
    names = " ".join(Path(a).name for a in arguments if not a.startswith("-"))
    log(f"pip install {names}")
    run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments])


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
