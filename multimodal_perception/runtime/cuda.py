"""The CUDA driver functions that running a TensorRT engine needs.

They are called through ctypes in libcuda.so.1, which is part of every NVIDIA driver, including that of
Jetson. Neither the CUDA toolkit nor a Python package for CUDA is needed. TensorRT uses the same primary
context.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from multimodal_perception.runtime.engine import EngineError

LIBRARY = "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
# Argument types of each function as in cuda.h; a CUdeviceptr has 64 bits, a handle is a pointer.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (POINTER(c_char), c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_ulonglong), c_size_t),
    "cuMemFree_v2": (c_ulonglong,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_ulonglong, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_ulonglong, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}


def gpu_present(index: int = 0, library: str = LIBRARY) -> bool:
    """Whether the GPU with this index and its driver are available."""
    try:
        Gpu(index, library)
    except EngineError:
        return False
    return True


class Gpu:
    """One GPU with its own stream. Raises EngineError if the GPU or its driver is missing.

    name: from the driver. capability: compute capability, (8, 9) for an RTX 4090. stream: the handle
    that TensorRT takes. Memory and graphs allocated here are freed with the object.
    """

    def __init__(self, index: int = 0, library: str = LIBRARY) -> None:
        self._driver = _load(library)
        self._call("cuInit", 0)
        device, context, stream = c_int(), c_void_p(), c_void_p()
        self._call("cuDeviceGet", byref(device), index)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode(errors="replace")
        major, minor = c_int(), c_int()
        self._call("cuDeviceGetAttribute", byref(major), CAPABILITY_MAJOR, device)
        self._call("cuDeviceGetAttribute", byref(minor), CAPABILITY_MINOR, device)
        self.capability = (major.value, minor.value)
        # Never released, because other libraries in the process use the same context.
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        self._context = context.value
        self.activate()
        self._call("cuStreamCreate", byref(stream), NON_BLOCKING)
        self.stream = int(stream.value or 0)
        self._owned: list[tuple[str, int]] = [("cuStreamDestroy_v2", self.stream)]
        # Not at process exit: the driver frees everything itself then, possibly earlier.
        weakref.finalize(self, _free, self._driver, self._context, self._owned).atexit = False

    def activate(self) -> None:
        """Make this GPU's context current in the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU in bytes."""
        free, total = c_size_t(), c_size_t()
        self.activate()
        self._call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    @property
    def driver_version(self) -> str:
        """Latest CUDA version that the driver supports, such as 12.4."""
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def device_memory(self, size: int) -> int:
        """Allocate `size` bytes on the GPU and return the address."""
        pointer = c_ulonglong()
        self._call("cuMemAlloc_v2", byref(pointer), max(size, 1))
        self._owned.append(("cuMemFree_v2", pointer.value))
        return pointer.value

    def pinned_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Allocate an array in page-locked memory, which asynchronous copies need."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        pointer = c_void_p()
        self._call("cuMemHostAlloc", byref(pointer), max(size, 1), 0)
        assert pointer.value is not None
        self._owned.append(("cuMemFreeHost", pointer.value))
        content = (c_char * size).from_address(pointer.value)
        return np.ndarray(shape, dtype, buffer=memoryview(content))

    def to_device(self, address: int, array: NDArray[Any]) -> None:
        """Enqueue a copy from a pinned array to GPU memory."""
        source = array.ctypes.data
        self._call("cuMemcpyHtoDAsync_v2", address, source, array.nbytes, self.stream)

    def to_host(self, array: NDArray[Any], address: int) -> None:
        """Enqueue a copy from GPU memory to a pinned array."""
        target = array.ctypes.data
        self._call("cuMemcpyDtoHAsync_v2", target, address, array.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait until all enqueued work is done. Raises EngineError if that work failed."""
        self._call("cuStreamSynchronize", self.stream)

    def capture(self, enqueue: Callable[[], None]) -> int:
        """Record the work that `enqueue` enqueues as a graph for launch(), without running it."""
        graph, executable = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", self.stream, CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        finally:
            # A stream that is still capturing cannot be used, so end the capture after errors too.
            self._call("cuStreamEndCapture", self.stream, byref(graph))
        self._call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        self._call("cuGraphDestroy", graph)
        handle = int(executable.value or 0)
        self._owned.append(("cuGraphExecDestroy", handle))
        return handle

    def launch(self, graph: int) -> None:
        """Enqueue a captured graph."""
        self._call("cuGraphLaunch", graph, self.stream)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status:
            text = c_char_p()
            self._driver.cuGetErrorName(status, byref(text))
            name = (text.value or b"unknown").decode()
            raise EngineError(f"{function}: {name} ({status})")


def _load(library: str) -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL(library)
        for name, arguments in SIGNATURES.items():
            function = getattr(driver, name)
            function.argtypes, function.restype = arguments, c_int
    except OSError as error:
        raise EngineError(f"no NVIDIA driver ({library})") from error
    except AttributeError as error:
        raise EngineError(f"the NVIDIA driver is too old ({error})") from error
    return driver


def _free(driver: ctypes.CDLL, context: int | None, owned: list[tuple[str, int]]) -> None:
    """Free all resources, last first; a destroyed context has freed them already."""
    if driver.cuCtxSetCurrent(context) == 0:
        for function, handle in reversed(owned):
            getattr(driver, function)(handle)
