"""Time every report of a synthetic result as large as a model of 1,000 matrices, and the reading and merging of it.

Prints seconds (the best of some repeats) and the peak of memory that Python allocated meanwhile (of one more run, which
tracing slows down). No model is needed.

    python benchmarks/reports.py [--layers 1000] [--checks 12] [--evals 200] [--repeats 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pytest_weightwatcher.report import RENDERERS, render
from pytest_weightwatcher.report.markdown import SUMMARY_BUDGET, render_markdown
from pytest_weightwatcher.report.merging import Source, merge_results
from pytest_weightwatcher.report.reading import read_result
from tests.gate.synthetic_result import large_result


def measure(task: Callable[[], object], repeats: int) -> tuple[float, float, int]:
    """Return seconds, MB at the peak, and the size of what came out."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = task()
        times.append(time.perf_counter() - start)
    tracemalloc.start()
    task()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return min(times), peak, len(found.encode("utf-8")) if isinstance(found, str) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--checks", type=int, default=12)
    parser.add_argument("--evals", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    result = large_result(given.layers, given.checks, n_evals=given.evals)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        path.write_text(render("json", result), encoding="utf-8")
        tasks: dict[str, Callable[[], object]] = {
            "read and check a result file": lambda: read_result(path),
            "merge it with itself": lambda: merge_results([Source(name=name, result=result) for name in "ab"]),
            **{kind: lambda kind=kind: render(kind, result) for kind in RENDERERS},  # type: ignore[misc]  # its default
            "md for a job summary": lambda: render_markdown(result, budget=SUMMARY_BUDGET),
        }
        print(f"{given.layers} layers of {given.checks} checks, {given.evals} eigenvalues in each sketch")
        print(f"{'':32}{'seconds':>9}{'peak MB':>9}{'kB':>9}")
        total = 0.0
        for name, task in tasks.items():
            seconds, peak, size = measure(task, given.repeats)
            total += seconds
            print(f"{name:32}{seconds:9.3f}{peak:9.1f}{size / 1e3:9.0f}")
        print(f"{'all':32}{total:9.3f}")


if __name__ == "__main__":
    main()
