"""What the benchmark scripts share: timing in turn, peak memory, and the file that each writes."""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).parent / "out"


def in_turn(functions: dict, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each function, called one after the other ``repeats`` times after one round that is not counted.

    The process's own seconds, since other work on the machine changes them least; every script here sets one thread.
    """
    seconds = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


def spread(values) -> dict[str, float]:
    """``{median, min, max}`` of some numbers."""
    values = sorted(values)
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    return {"median": median, "min": values[0], "max": values[-1]}


def quotients(numerators, denominators) -> dict[str, float]:
    """Spread of the quotients of what was measured next to each other."""
    return spread([a / b for a, b in zip(numerators, denominators)])


def row(claim, peer, ratio, n, sizes) -> dict:
    """A row of a result file.

    Args:
        claim: what the ratio is, and what it must be.
        peer: what stands in the ratio beside ours.
        ratio: of :func:`spread` or :func:`quotients`.
        n: measurements in it.
        sizes: of data and models.
    """
    packages = {name: version(name) for name in ("torch", "numpy", "recbole")}
    versions = {"python": platform.python_version(), **packages}
    return {"claim": claim, "peer": peer, "ratio": ratio, "n": n, "sizes": sizes, "versions": versions}


def write(script, rows) -> None:
    """Write ``benchmarks/out/<script>.json`` and print its rows."""
    OUT.mkdir(exist_ok=True)
    file = OUT / f"{Path(script).stem}.json"
    file.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{'ratio':>6}  {'min':>6}  {'max':>6}  {'n':>2}  claim, peer")
    for entry in rows:
        numbers = "  ".join(f"{entry['ratio'][key]:6.2f}" for key in ("median", "min", "max"))
        print(f"{numbers}  {entry['n']:>2}  {entry['claim']}; {entry['peer']}")
    print(f"written to {file}")


def peak_memory(function) -> int:
    """Bytes by which the process's resident memory rises, at its highest, while ``function`` runs (Linux)."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    function()
    return _status("VmHWM") - before


def resident() -> int:
    """Bytes of the process's resident memory (Linux)."""
    return _status("VmRSS")


def _status(key) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
