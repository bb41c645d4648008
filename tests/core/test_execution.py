"""The same bits on any number of workers, in any process, in any order."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spectral.analysis import Analysis, analyze, analyze_matrix, describe
from spectral.errors import ModelError
from spectral.execution import n_default_workers, run_all, single_threaded_blas
from spectral.model_comparison import compare_models
from spectral.model_distances import distances
from tests.core.builders import heavy_tailed, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def fingerprint(analysis: Analysis) -> list[tuple[object, ...]]:
    """Everything in an analysis, floats by their bits."""
    return [
        (
            layer.name,
            layer.content_hash,
            getattr(layer.spectrum, "evals", np.zeros(0)).tobytes(),
            layer.fit,
            {name: float(value).hex() for name, value in layer.metrics.items()},
        )
        for layer in analysis.layers
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes = [(700, 500), (64, 48), (500, 700), (90, 90), (400, 300, 2), (60, 20, 3, 3), (300, 300)]
    tensors = {
        f"layer.{seed}.conv.weight": heavy_tailed(*shape, seed=seed).astype(np.float32)
        for seed, shape in enumerate(shapes)
    }
    tensors["layer.9.fc.weight"] = np.ones((300, 200), np.float32)
    return write_safetensors(tmp_path_factory.mktemp("model") / "m.safetensors", tensors)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[tuple[object, ...]]:
    return fingerprint(analyze(model, n_workers=1))


@pytest.mark.parametrize("n_workers", [1, 2, 4, None])
def test_any_number_of_threads(n_workers: int | None, model: Path, expected: list[tuple[object, ...]]) -> None:
    assert fingerprint(analyze(model, n_workers=n_workers)) == expected


def test_other_processes(model: Path, expected: list[tuple[object, ...]]) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert fingerprint(analyze(model, executor=executor)) == expected
        # The executor is the caller's and still works.
        assert executor.submit(abs, -3).result() == 3


@pytest.mark.parametrize("kind", ["torch file", "arrays", "folder"])
def test_every_source_can_go_to_another_process(kind: str, tmp_path: Path) -> None:
    values = heavy_tailed(80, 60).astype(np.float32)
    source: Any = {"w": values}
    if kind == "torch file":
        source = tmp_path / "m.pt"
        torch.save({"w": torch.from_numpy(values)}, source)
    elif kind == "folder":
        source = tmp_path
        write_safetensors(tmp_path / "one.safetensors", {"w": values})
        write_safetensors(tmp_path / "two.safetensors", {"v": values})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert fingerprint(analyze(source, executor=executor)) == fingerprint(analyze(source))


def test_an_executor_of_threads_with_many_blas_threads(model: Path, expected: list[tuple[object, ...]]) -> None:
    with threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(3) as executor:
        assert fingerprint(analyze(model, executor=executor)) == expected
        assert {item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"} == {2}


def test_one_task_alone_holds_blas_itself(model: Path, expected: list[tuple[object, ...]]) -> None:
    # So a process that got nothing but the task gives the same bits.
    description = describe(model)
    with threadpool_limits(2, user_api="blas"):
        layers = tuple(analyze_matrix(task) for task in description.tasks())
    assert fingerprint(Analysis(description=description, layers=layers)) == expected


class Backwards(Executor):
    """Runs nothing before the last task is there, then the last first."""

    def __init__(self, n_tasks: int) -> None:
        self.n_tasks = n_tasks
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return 0  # false as a truth value, and an executor all the same

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        if len(self.waiting) == self.n_tasks:
            for waiting, function, arguments in reversed(self.waiting):
                waiting.set_result(function(*arguments))
        return future


def test_any_order(model: Path, expected: list[tuple[object, ...]]) -> None:
    executor = Backwards(len(expected))
    assert fingerprint(analyze(model, executor=executor)) == expected
    assert len(executor.waiting) == len(expected)


def test_twice_in_a_row(model: Path, expected: list[tuple[object, ...]]) -> None:
    for _ in range(2):
        assert fingerprint(analyze(model)) == expected


def blas_threads() -> set[int]:
    return {item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"}


@pytest.fixture
def two_blas_threads() -> Iterator[None]:
    with threadpool_limits(2, user_api="blas"):
        yield


@pytest.mark.usefixtures("two_blas_threads")
class TestBlasLimits:
    def test_held_inside_and_restored_after(self) -> None:
        assert blas_threads() == {2}
        with single_threaded_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {2}

    def test_held_until_the_last_user_leaves(self) -> None:
        def user() -> None:
            with single_threaded_blas():
                pass

        with single_threaded_blas():
            thread = threading.Thread(target=user)
            thread.start()
            thread.join(5.0)
            with single_threaded_blas():
                pass
            assert blas_threads() == {1}
        assert blas_threads() == {2}

    def test_restored_after_an_error(self) -> None:
        with pytest.raises(KeyError, match=r"inside"), single_threaded_blas():
            raise KeyError("inside")
        assert blas_threads() == {2}

    def test_restored_after_an_analysis(self, model: Path) -> None:
        analyze(model)
        assert blas_threads() == {2}

    def test_restored_after_a_failed_analysis(self, tmp_path: Path) -> None:
        path = write_safetensors(tmp_path / "m.safetensors", {"w": np.ones((9, 9), np.float32)})
        description = describe(path)
        path.unlink()
        with pytest.raises(ModelError, match=r"m\.safetensors: tensor 'w' cannot be read"):
            analyze(description)
        assert blas_threads() == {2}


class TestRunAll:
    @pytest.mark.parametrize("n_workers", [1, 2, 5])
    def test_results_in_the_order_of_the_tasks(self, n_workers: int) -> None:
        assert run_all(lambda task: task * 2, [3, 1, 2], costs=[1.0, 3.0, 2.0], n_workers=n_workers) == [6, 2, 4]

    def test_the_costliest_first(self) -> None:
        begun: list[str] = []
        run_all(begun.append, ["b", "c", "a", "a2"], costs=[2.0, 1.0, 3.0, 3.0], n_workers=1)
        assert begun == ["a", "a2", "b", "c"]

    def test_no_tasks(self) -> None:
        assert run_all(abs, [], costs=[]) == []

    def test_the_first_error_in_task_order_and_nothing_new_begins(self) -> None:
        begun: list[int] = []

        def work(task: int) -> None:
            begun.append(task)
            time.sleep(0.02)
            raise ValueError(f"task {task}")

        with pytest.raises(ValueError, match=r"^task 0$"):
            run_all(work, list(range(50)), costs=[0.0] * 50, n_workers=1)
        assert len(begun) < 10

    def test_nothing_runs_on_after_an_error(self) -> None:
        finished: list[int] = []

        def work(task: int) -> None:
            if task == 0:
                raise ValueError("task 0")
            time.sleep(0.2)
            finished.append(task)

        with ThreadPoolExecutor(2) as executor:
            with pytest.raises(ValueError, match=r"^task 0$"):
                run_all(work, [0, 1, 2, 3], costs=[0.0, 1.0, 0.0, 0.0], executor=executor)
            n_finished = len(finished)
            time.sleep(0.3)
            assert len(finished) == n_finished >= 1

    def test_parallel(self) -> None:
        barrier = threading.Barrier(3, timeout=5.0)
        assert sorted(run_all(lambda _: barrier.wait(), [0, 1, 2], costs=[0.0] * 3, n_workers=3)) == [0, 1, 2]

    @pytest.mark.parametrize("n_workers", [1, 2])
    def test_progress(self, n_workers: int) -> None:
        calls: list[tuple[int, int, int]] = []
        threads: set[int] = set()

        def progress(n_done: int, n_total: int, task: int) -> None:
            threads.add(threading.get_ident())
            calls.append((n_done, n_total, task))

        found = run_all(abs, [-1, -2, -3], costs=[1.0, 3.0, 2.0], n_workers=n_workers, progress=progress)
        assert found == [1, 2, 3]
        assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
        assert sorted(call[2] for call in calls) == [-3, -2, -1]
        assert threads == {threading.get_ident()}

    def test_the_first_error_in_task_order_with_progress(self) -> None:
        def work(task: int) -> int:
            time.sleep(0.05 if task == 0 else 0.0)
            raise ValueError(f"task {task}")

        done: list[int] = []
        with pytest.raises(ValueError, match=r"^task 0$"):
            run_all(work, [0, 1], costs=[1.0, 0.0], n_workers=2, progress=lambda n_done, _, __: done.append(n_done))
        assert done == []

    def test_an_error_of_the_progress_ends_the_run(self) -> None:
        begun: list[int] = []

        def work(task: int) -> int:
            begun.append(task)
            time.sleep(0.02)
            return task

        def stop(*_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_all(work, list(range(50)), costs=[0.0] * 50, n_workers=1, progress=stop)
        assert len(begun) < 10

    def test_default_number_of_workers(self) -> None:
        assert 1 <= n_default_workers() <= (multiprocessing.cpu_count() or 1)


def test_progress_of_an_analysis_changes_no_bit(model: Path, expected: list[tuple[object, ...]]) -> None:
    calls: list[tuple[int, int, str]] = []
    analysis = analyze(model, n_workers=2, progress=lambda *call: calls.append(call))
    assert fingerprint(analysis) == expected
    assert [call[0] for call in calls] == list(range(1, len(analysis.layers) + 1))
    assert {call[1] for call in calls} == {len(analysis.layers)}
    assert sorted(call[2] for call in calls) == sorted(layer.name for layer in analysis.layers)


def test_progress_of_two_models(model: Path) -> None:
    for compare in (distances, compare_models):
        calls: list[tuple[int, int, str]] = []
        plain = compare(model, model)
        told = compare(model, model, progress=lambda *call, calls=calls: calls.append(call))
        assert told.details.equals(plain.details)
        assert [call[0] for call in calls] == list(range(1, 9))
        assert "layer.9.fc" in {call[2] for call in calls}


def test_a_hold_that_does_not_take_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """threadpoolctl ignores a thread that does not control OpenBLAS while the one that does is alive."""

    def hold() -> None:
        with single_threaded_blas():
            pass

    with single_threaded_blas():
        pass
    assert not caplog.records
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold).result()
    is_held = not any("could not be held to one thread" in record.message for record in caplog.records)
    with ThreadPoolExecutor(1) as pool:
        n_threads = pool.submit(_threads_inside_a_hold).result()
    assert is_held == (n_threads == 1)


def _threads_inside_a_hold() -> int:
    with single_threaded_blas():
        return max(int(library["num_threads"]) for library in threadpool_info() if library["user_api"] == "blas")
