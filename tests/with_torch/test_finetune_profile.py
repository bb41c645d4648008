"""The finetune profile on a network that is trained here: healthy continuations pass, bad ones fail.

A small version of benchmarks/finetunes.py. Each continuation lies far on its side of the limits, so that the last
digits of another processor do not matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import nn

from tests.gate.conftest import PRELOADED  # what an inner run of pytest would load again

__all__ = ["PRELOADED"]

Data = tuple[torch.Tensor, torch.Tensor]
Continuation = Callable[[nn.Module, Data, Data], None]

WIDTHS = (64, 128, 128, 10)
LR, EPOCHS = 0.03, 15


def digits() -> tuple[Data, Data]:
    """Return data to train on, and more of it for later."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = torch.tensor(images[order] / 6.0 - 0.8, dtype=torch.float32), torch.tensor(labels[order])
    return (x[:800], y[:800]), (x[800:], y[800:])


def train(
    model: nn.Module, data: Data, *, lr: float = LR, epochs: int = EPOCHS, decay: float = 0.0, adam: bool = False
) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    if adam:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for chosen in torch.randperm(len(data[0]), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0][chosen]), data[1][chosen]).backward()
            optimizer.step()


def accuracy(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        return float((model(data[0]).argmax(1) == data[1]).float().mean())


def memorise_random_labels(model: nn.Module, data: Data, _: Data) -> None:
    random = data[0], torch.tensor(np.random.default_rng(1).integers(10, size=len(data[1])))
    train(model, random, lr=2e-3, epochs=100, adam=True)
    assert accuracy(model, random) > 0.9


def collapse(model: nn.Module, data: Data, _: Data) -> None:
    """Leave one direction of the first layer, and train on for an epoch."""
    with torch.no_grad():
        left, sizes, right = torch.linalg.svd(model[0].weight, full_matrices=False)
        model[0].weight.copy_(sizes[0] * torch.outer(left[:, 0], right[0]))
    train(model, data, epochs=1)


def lose(model: nn.Module, data: Data, _: Data) -> None:
    with torch.no_grad():
        model[2].weight.mul_(0.1)


def draw_anew(model: nn.Module, data: Data, _: Data) -> None:
    weight = model[2].weight
    with torch.no_grad():
        weight.copy_(weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))


HEALTHY: Mapping[str, Continuation] = {
    "more-epochs": lambda model, data, more: train(model, data, epochs=10),
    "low-rate": lambda model, data, more: train(model, data, lr=0.3 * LR, epochs=10),
    "new-samples": lambda model, data, more: train(model, more, epochs=10),
    "weight-decay": lambda model, data, more: train(model, data, epochs=10, decay=1e-3),
}
BAD: Mapping[str, Continuation] = {
    "high-rate": lambda model, data, more: train(model, data, lr=30 * LR, epochs=3),
    "random-labels": memorise_random_labels,
    "collapsed": collapse,
    "shrunk": lose,
    "drawn-anew": draw_anew,
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def trained_network(data: Data, more: Data) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [layer for widths in pairwise(WIDTHS) for layer in (nn.Linear(*widths), nn.ReLU())]
        model = nn.Sequential(*layers[:-1])
    train(model, data)
    assert accuracy(model, more) > 0.9
    return model


def test_healthy_continuations_pass_and_bad_ones_fail(pytester: pytest.Pytester, one_thread: None) -> None:
    data, more = digits()
    base = trained_network(data, more)
    torch.save(base.state_dict(), pytester.path / "base.pt")
    baseline = "--ww-baseline=base.ww.json"
    assert pytester.inline_run("--ww-model=base.pt", baseline, "--ww-update-baseline").ret == pytest.ExitCode.OK
    for name, continuation in {**HEALTHY, **BAD}.items():
        model = copy.deepcopy(base)
        continuation(model, data, more)
        torch.save(model.state_dict(), pytester.path / f"tuned-{name}.pt")

    run = pytester.inline_run("--ww-model=tuned-*.pt", baseline, "--ww-profile=finetune")

    passed, _, failed = run.listoutcomes()
    assert {model_of(report) for report in passed} == {*HEALTHY, *BAD}
    assert {model_of(report) for report in failed} == {*BAD}


def model_of(report: pytest.CollectReport | pytest.TestReport) -> str:
    return report.nodeid.split("::")[1].removeprefix("tuned-").removesuffix(".pt")
