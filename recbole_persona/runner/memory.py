"""The most memory that a run held, beyond what stood before it."""

import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch

_CLEAR = Path("/proc/self/clear_refs")  # Linux: writing 5 forgets the peak so far
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Begin to watch; :meth:`peak_mib` tells. On CUDA the allocator's peak, else growth of the resident size.

    Args:
        device: the run's device.
    """

    def __init__(self, device):
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            return
        give_back_memory()  # else the run lives in what an earlier one of the process has freed
        self._before = psutil.Process().memory_info().rss
        try:
            _CLEAR.write_text("5")
        except OSError:
            pass  # elsewhere the peak of the whole process counts

    def peak_mib(self) -> float:
        """Peak so far, in MiB."""
        if self._cuda:
            return torch.cuda.max_memory_allocated(self._cuda) / 2**20
        return (_peak_resident() - self._before) / 2**20


def give_back_memory() -> None:
    """Return freed memory to the system (glibc), which keeps what was freed in small pieces for the process."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _peak_resident() -> int:
    """Bytes."""
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
