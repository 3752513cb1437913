"""How much memory of the configured GPUs is in use, by the driver's own libraries; nothing where they are not there.

A thread asks, for a driver in trouble answers late or never, and no scrape must wait for it.
"""

import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

log = logging.getLogger("regnetx.gpu_memory")

CUDA, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
ASK_SECONDS = 5.0
STALE_SECONDS = 30.0  # then a number is no longer told


@dataclass(frozen=True)
class Memory:
    """Of one GPU, or of one instance of MIG, in bytes; what other programs use is in it."""

    used: int
    total: int


class Driver:
    """CUDA counts GPUs as the configuration does, NVML knows what is in use; both know a GPU by its UUID.

    Each call raises OSError where the driver is not there or refuses, AttributeError where it is too old.
    """

    def __init__(self) -> None:
        self._cuda, self._nvml = ctypes.CDLL(CUDA), ctypes.CDLL(NVML)
        _demand(self._cuda.cuInit(0), "cuInit")
        _demand(self._nvml.nvmlInit_v2(), "nvmlInit")

    def memory(self, number: int) -> Memory:
        """Of the GPU that ``devices`` calls ``number``."""
        device, uuid, found = ctypes.c_int(), (ctypes.c_ubyte * 16)(), _NvmlMemory()
        _demand(self._cuda.cuDeviceGet(ctypes.byref(device), number), "cuDeviceGet")
        _demand(self._cuda.cuDeviceGetUuid_v2(ctypes.byref(uuid), device), "cuDeviceGetUuid")
        handle = self._handle(UUID(bytes=bytes(uuid)))
        _demand(self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(found)), "nvmlDeviceGetMemoryInfo")
        return Memory(found.used, found.total)

    def _handle(self, uuid: UUID) -> ctypes.c_void_p:
        handle, code = ctypes.c_void_p(), 0
        for kind in ("GPU", "MIG"):
            code = self._nvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}".encode(), ctypes.byref(handle))
            if not code:
                break
        _demand(code, "nvmlDeviceGetHandleByUUID")
        return handle


class GpuMemory:
    """The last that was heard of the memory of ``devices``."""

    def __init__(self, devices: Sequence[int], open_driver: Callable[[], Driver] = Driver) -> None:
        """Without ``devices`` nobody is asked and no library is loaded."""
        self._devices = sorted(set(devices))
        self._heard: tuple[float, dict[int, Memory]] = -math.inf, {}
        if self._devices:
            # A daemon: the process must be able to end while the driver keeps the thread.
            threading.Thread(target=self._follow, args=(open_driver,), name="gpu-memory", daemon=True).start()

    def last(self) -> dict[int, Memory]:
        """By number of the device; empty where nothing has been heard for half a minute. Never waits."""
        at, memory = self._heard
        return memory if time.monotonic() - at <= STALE_SECONDS else {}

    def _follow(self, open_driver: Callable[[], Driver]) -> None:
        driver, said = None, ""
        while True:
            try:
                driver = driver or open_driver()
                self._heard = time.monotonic(), {number: driver.memory(number) for number in self._devices}
                said = ""
            except (OSError, AttributeError) as error:
                if str(error) != said:
                    log.warning("the memory of the GPUs is not told: %s", error)
                said = str(error)
            time.sleep(ASK_SECONDS)


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _demand(code: int, call: str) -> None:
    if code:
        raise OSError(f"{call} answers {code}")
