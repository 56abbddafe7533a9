"""Running a step in a process of its own and telling what it cost; writing tables of such figures.

    steps = Steps("benchmarks.nightly", folder)
    cost = steps.run("ingest", first="2024-01-01")

A step is a function ``<module>.step_<name>(**arguments)``. Its seconds begin when the interpreter has started, the
module and what its ``IMPORTS`` name for the step are imported and its ``prepare()``, if any, has returned; the peak of
memory and the seconds of the whole process contain all of that.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_KIB_PER_MIB = 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step cost.

    CPU and wall seconds of its work and of its whole process, with start and imports; the process's peak resident MiB;
    and what the step returned.
    """

    step: str
    cpu: float
    wall: float
    peak: float
    whole_cpu: float
    whole_wall: float
    told: dict[str, Any] = field(default_factory=dict)


class StepFailedError(Exception):
    """A step's process did not end well; the message holds the end of its output."""


def run_step(
    module: str, step: str, work: Path, /, *, environment: Mapping[str, str] | None = None, **told: Any
) -> Cost:
    """Run one step in a new process, with BLAS and OpenMP limited to the processors that are there."""
    threads = str(min(2, os.cpu_count() or 1))
    env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, **(environment or {})}
    report = work / "cost.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.measuring", module, step, str(report), json.dumps(told)]
    start = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    whole_wall = time.perf_counter() - start
    if done.returncode or not report.exists():
        raise StepFailedError(f"{step} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return Cost(step, whole_wall=whole_wall, **json.loads(report.read_text(encoding="utf-8")))


def _child(name: str, step: str, report: str, arguments: str) -> None:
    module = importlib.import_module(name)
    for needed in getattr(module, "IMPORTS", {}).get(step, ()):
        importlib.import_module(needed)
    getattr(module, "prepare", lambda: None)()
    wall, cpu = time.perf_counter(), _cpu()
    told = getattr(module, f"step_{step}")(**json.loads(arguments)) or {}
    wall, work = time.perf_counter() - wall, _cpu() - cpu
    cost = {"cpu": work, "wall": wall, "peak": _peak(), "whole_cpu": _cpu(), "told": told}
    Path(report).write_text(json.dumps(cost), encoding="utf-8")


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak() -> float:
    """Peak of this program; `ru_maxrss` would begin with that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / _KIB_PER_MIB


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown of a table; the first column is text, the others are right-aligned."""
    lines = [" | ".join(header), " | ".join(["---", *["---:"] * (len(header) - 1)])]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def write_result(name: str, text: str, *, folder: Path = RESULTS) -> Path:
    """Write a result page and show it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text)
    return path


def machine() -> str:
    """The machine in general words, and the versions that matter."""
    from importlib.metadata import version

    packages = ("pandas", "pyarrow", "duckdb", "deltalake", "ibis-framework", "xgboost", "dagster")
    versions = ", ".join(f"{p} {version(p)}" for p in packages)
    return f"Measured on {os.cpu_count()} shared cores; Python {platform.python_version()}, {versions}."


if __name__ == "__main__":
    _child(*sys.argv[1:])
