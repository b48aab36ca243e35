"""Joules, where the machine counts them: RAPL through Linux's powercap for the processor, NVML for an NVIDIA GPU."""

from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

Meter = Callable[[], float]
"""Returns the joules since some moment; only differences mean something."""


def meter(folder: Path = POWERCAP) -> Meter | str:
    """Return a meter of all packages and GPUs of the machine, or why there is none. Other programs' energy counts too."""
    domains = sorted(path for path in folder.glob("intel-rapl:*") if path.name.count(":") == 1)  # of AMD as well; parts have one more colon
    if not domains:
        return f"no energy counter: {folder} has no intel-rapl domain (virtual machines hide it)"
    try:
        packages = [Package(path) for path in domains]
    except OSError as error:
        return f"energy counter not readable: {error}"
    gpus = _gpus()
    return lambda: sum(package.joules() for package in packages) + sum(gpu() for gpu in gpus)


class Package:
    """The counter of one package, which starts again at zero now and then: it must be read more often than that, some minutes."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last, self._total = int(self._file.read_text()), 0

    def joules(self) -> float:
        """Return the joules since this was made."""
        now = int(self._file.read_text())
        self._total += (now - self._last) % (self._range + 1)
        self._last = now
        return self._total / 1e6


def _gpus() -> list[Meter]:
    """Return a meter for each GPU that NVML shows; none without pynvml."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [lambda handle=handle: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
    except Exception:  # no package, no driver, or a GPU that does not count
        return []
