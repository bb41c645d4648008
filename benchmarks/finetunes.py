"""Which continuations of a training the ``finetune`` profile passes and fails: the tables of docs/baselines.md.

Small networks are trained on half of the digits of scikit-learn or of rendered shapes. Every one is continued in
healthy ways (more epochs, new samples, slight augmentation, a little of a new task, another optimiser, decay, noise,
int8) and in bad ones (learning rates far too large, random labels, layers that collapse or are lost). The gate judges
each against a baseline file of the network before; it sees weights only. Test accuracy before and after is printed
beside its verdicts. No limit was chosen by the networks of these seeds.

    python benchmarks/finetunes.py [--seeds 2] [--first-seed 400] [--only mlp cnn ...]

Needs torch and scikit-learn; about three minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no types
from torch import nn

from pytest_weightwatcher.baseline import (
    Baseline,
    BaselineEntry,
    environment_payload,
    options_payload,
    read_baseline,
    write_baseline,
)
from pytest_weightwatcher.baseline_source import open_recorded
from pytest_weightwatcher.config import Config
from pytest_weightwatcher.gate import Gate, layer_checks, model_checks
from pytest_weightwatcher.planning import gate_options, plan_model
from pytest_weightwatcher.records import record_of
from pytest_weightwatcher.report.result import tool_payload
from pytest_weightwatcher.tensors import records_of_tensors
from pytest_weightwatcher.verdict import Verdict
from spectral import __version__
from spectral.analysis import analyze_matrix, describe

State = dict[str, Any]
"""Parameter name -> numpy array; also options of a group of parameters."""

UNHARMED = 0.02
"""A continuation meant to be healthy counts as such where test accuracy falls by no more."""

DROPS = (0.03, 0.1, 0.2)
SIZE = 12
"""Of a rendered image."""


@dataclass(frozen=True)
class Data:
    """Samples as rows, and their classes."""

    x: torch.Tensor
    y: torch.Tensor

    def part(self, start: int, stop: int) -> Data:
        return Data(self.x[start:stop], self.y[start:stop])

    def and_also(self, other: Data) -> Data:
        return Data(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]))

    def relabelled(self, share: float, seed: int) -> Data:
        """Give a share of the samples random labels."""
        rng = np.random.default_rng(seed)
        y = self.y.numpy().copy()
        chosen = rng.random(len(y)) < share
        y[chosen] = rng.integers(y.max() + 1, size=chosen.sum())
        return Data(self.x, torch.tensor(y))


def digits(seed: int) -> Data:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    return Data(torch.tensor(images[order] / 16.0, dtype=torch.float32), torch.tensor(labels[order]))


def shapes(seed: int, n: int = 2000) -> Data:
    """Disc, ring, square, frame, cross, saltire, bars and triangle, at random places and sizes, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=n)
    images = []
    for label in labels:
        r = rng.uniform(2.5, 4.5)
        v, u = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2 - rng.uniform(-1.5, 1.5, size=(2, 1, 1))
        far, near, radius = np.maximum(abs(u), abs(v)), np.minimum(abs(u), abs(v)), np.hypot(u, v)
        image = (
            radius < r,
            abs(radius - r) < 0.9,
            far < 0.85 * r,
            abs(far - r) < 0.7,
            (far < r) & (near < 0.9),
            (far < r) & (np.minimum(abs(u - v), abs(u + v)) < 1.2),
            (far < r) & (np.floor(v / 1.5) % 2 == 0),
            (v < 0.8 * r) & (v > 2 * abs(u) - r),
        )[label]
        images.append(image + 0.3 * rng.standard_normal((SIZE, SIZE)))
    return Data(torch.tensor(np.array(images).reshape(n, -1), dtype=torch.float32), torch.tensor(labels))


def mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Transformer(nn.Module):  # type: ignore[misc]  # mypy does not follow torch: its classes are Any
    """Reads a digit row by row."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(0.1 * torch.randn(8, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained."""

    optimizer: str
    lr: float
    epochs: int
    weight_decay: float = 0.0
    augment: float = 0.0
    until: float | None = None
    """Stop at this accuracy on the training data."""


@dataclass(frozen=True)
class Network:
    make: Callable[[], nn.Module]
    data: Callable[[int], Data]
    training: Training


NETWORKS = {
    "mlp 96": Network(lambda: mlp(64, 96, 96, 10), digits, Training(optimizer="sgd", lr=0.1, epochs=20)),
    "mlp 192": Network(lambda: mlp(SIZE**2, 192, 96, 8), shapes, Training(optimizer="adam", lr=1e-3, epochs=12)),
    "mlp 320": Network(lambda: mlp(64, 320, 160, 10), digits, Training(optimizer="adam", lr=1e-3, epochs=15)),
    "mlp 320 sgd": Network(lambda: mlp(SIZE**2, 320, 160, 8), shapes, Training(optimizer="sgd", lr=0.03, epochs=12)),
    "cnn": Network(cnn, digits, Training(optimizer="sgd", lr=0.05, epochs=12)),
    "transformer": Network(Transformer, digits, Training(optimizer="adam", lr=2e-3, epochs=20)),
}


def train(model: nn.Module, data: Data, how: Training, seed: int, groups: list[State] | None = None) -> None:
    """Train in place; end early where the loss is no number any more."""
    generator = torch.Generator().manual_seed(seed)
    parameters = groups or [{"params": list(model.parameters())}]
    optimizer: Any
    if how.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=how.lr, momentum=0.9, weight_decay=how.weight_decay)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=how.lr, weight_decay=how.weight_decay)
    for _ in range(how.epochs):
        for chosen in torch.randperm(len(data.x), generator=generator).split(64):
            x = data.x[chosen]
            if how.augment:
                x = x + how.augment * torch.randn(x.shape, generator=generator)
            loss = nn.functional.cross_entropy(model(x), data.y[chosen])
            if not torch.isfinite(loss):
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if how.until is not None and accuracy(model, data) >= how.until:
            return


def accuracy(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        return float((model(data.x).argmax(1) == data.y).float().mean())


@dataclass(frozen=True)
class Case:
    """A trained network and what can be done with it."""

    training: Training
    base: Data
    other: Data
    test: Data
    seed: int

    @property
    def epochs(self) -> int:
        return max(5, self.training.epochs // 2)

    @property
    def other_optimizer(self) -> Training:
        if self.training.optimizer == "sgd":
            return Training(optimizer="adam", lr=1e-3, epochs=self.epochs)
        return Training(optimizer="sgd", lr=0.03, epochs=self.epochs)

    @property
    def new_task(self) -> Data:
        """The data with a twentieth of it once more, inverted."""
        few = self.base.part(0, len(self.base.x) // 20)
        return self.base.and_also(Data(1.0 - few.x, few.y))

    @property
    def odd_labels(self) -> Data:
        """The data with a few shifted images under other labels."""
        few = self.base.part(0, 3 * len(self.base.x) // 100)
        n_classes = int(self.base.y.max()) + 1
        return self.base.and_also(Data(few.x.roll(3, 1), (few.y + 1) % n_classes))


Continuation = Callable[[nn.Module, Case], None]


def on(data: Callable[[Case], Data], rate: float = 1.0, longer: float = 1.0, **changes: Any) -> Continuation:
    """Train on, at a multiple of the learning rate and of half the epochs, with other changes of the training."""

    def run(model: nn.Module, case: Case) -> None:
        own = replace(case.training, lr=rate * case.training.lr, epochs=round(longer * case.epochs))
        train(model, data(case), replace(own, **changes), 500 + case.seed)

    return run


def by_other_optimizer(longer: float = 1.0, weight_decay: float = 0.0) -> Continuation:
    def run(model: nn.Module, case: Case) -> None:
        how = case.other_optimizer
        how = replace(how, epochs=round(longer * how.epochs), weight_decay=weight_decay)
        train(model, case.base, how, 500 + case.seed)

    return run


def random_labels(share: float, rate: float = 1.0, data: str = "base", **changes: Any) -> Continuation:
    return on(lambda case: getattr(case, data).relabelled(share, 600 + case.seed), rate, **changes)


def matrices(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.dim() >= 2]


def largest(model: nn.Module) -> torch.Tensor:
    return max(matrices(model), key=lambda p: p.numel())


def damage(change: Callable[[torch.Tensor], torch.Tensor], n_epochs: int = 0) -> Continuation:
    """Change the largest matrix, then train on."""

    def run(model: nn.Module, case: Case) -> None:
        weight = largest(model)
        with torch.no_grad():
            weight.copy_(change(weight.reshape(len(weight), -1)).reshape(weight.shape))
        if n_epochs:
            train(model, case.base, replace(case.training, epochs=n_epochs), 500 + case.seed)

    return run


def everywhere(change: Callable[[torch.Tensor], torch.Tensor]) -> Continuation:
    def run(model: nn.Module, case: Case) -> None:
        torch.manual_seed(case.seed)
        with torch.no_grad():
            for weight in matrices(model):
                weight.copy_(change(weight.reshape(len(weight), -1)).reshape(weight.shape))

    return run


def decay_of_a_layer(weight_decay: float) -> Continuation:
    def run(model: nn.Module, case: Case) -> None:
        target = largest(model)
        groups: list[State] = [
            {"params": [p for p in model.parameters() if p is not target]},
            {"params": [target], "weight_decay": weight_decay},
        ]
        train(model, case.base, Training(optimizer="sgd", lr=0.03, epochs=case.epochs), 500 + case.seed, groups)

    return run


def to_int8(w: torch.Tensor) -> torch.Tensor:
    step = w.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (w / step).round() * step


def to_rank(w: torch.Tensor, share: float) -> torch.Tensor:
    left, sizes, right = torch.linalg.svd(w, full_matrices=False)
    sizes[max(1, int(share * len(sizes))) :] = 0
    return left * sizes @ right


def without_rows(w: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(w[: len(w) // 2]), w[len(w) // 2 :]])


def drawn_anew(w: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return w.std() * torch.randn(w.shape, generator=generator)


def with_one_weight(w: torch.Tensor, size: float) -> torch.Tensor:
    changed = w.clone()
    changed[len(w) // 2, w.shape[1] // 2] = size * torch.linalg.matrix_norm(w, 2)
    return changed


HEALTHY: dict[str, Continuation] = {
    "half the epochs again": on(lambda case: case.base),
    "all epochs again": on(lambda case: case.base, longer=2.0),
    "a third of the learning rate": on(lambda case: case.base, 0.3),
    "twice the learning rate": on(lambda case: case.base, 2.0),
    "new samples": on(lambda case: case.other),
    "old and new samples": on(lambda case: case.base.and_also(case.other)),
    "slightly augmented": on(lambda case: case.base, augment=0.1),
    "5% of a new task": on(lambda case: case.new_task),
    "3% odd labels": on(lambda case: case.odd_labels),
    "another optimiser": by_other_optimizer(),
    "another optimiser, four times as long": by_other_optimizer(4.0),
    "another optimiser, with decay": by_other_optimizer(weight_decay=1e-3),
    "noise of 1%": everywhere(lambda w: w + 0.01 * w.std() * torch.randn(w.shape)),
    "int8": everywhere(to_int8),
}
BAD: dict[str, Continuation] = {
    "learning rate x10": on(lambda case: case.base, 10.0),
    "learning rate x30": on(lambda case: case.base, 30.0),
    "learning rate x100": on(lambda case: case.base, 100.0),
    "random labels memorised": random_labels(1.0, epochs=60, until=0.97),
    "random labels, low rate, 5 epochs": random_labels(1.0, 0.3, epochs=5),
    "random labels, new samples": random_labels(1.0, data="other", epochs=20, until=0.97),
    "half the labels random": random_labels(0.5, epochs=60, until=0.97),
    "20% of the labels random": random_labels(0.2, epochs=15, until=0.97),
    "a layer of rank one": damage(lambda w: to_rank(w, 0.0)),
    "a layer of rank one, trained on": damage(lambda w: to_rank(w, 0.0), n_epochs=2),
    "a layer of an eighth of its rank": damage(lambda w: to_rank(w, 0.125)),
    "a layer shrunk to 30%": damage(lambda w: 0.3 * w),
    "a layer shrunk to 10%": damage(lambda w: 0.1 * w),
    "a layer of zeros": damage(lambda w: 0.0 * w),
    "a layer drawn anew": damage(drawn_anew),
    "half of a layer's rows dead": damage(without_rows),
    "decay of 0.1 on a layer": decay_of_a_layer(0.1),
    "decay of 1 on a layer": decay_of_a_layer(1.0),
    "one weight as large as its layer": damage(lambda w: with_one_weight(w, 1.0)),
    "one weight three times as large": damage(lambda w: with_one_weight(w, 3.0)),
}


class Judge:
    """The gate beside a baseline file of one network.

    Parameters
    ----------
    base : State
        The accepted weights.
    path : Path
        Where to write the baseline.
    """

    def __init__(self, base: State, path: Path) -> None:
        self._config = Config()
        options = gate_options(self._config, is_recording=True)
        description = describe(base, options)
        tasks = description.tasks()
        recorded = Baseline(
            label=str(path),
            version=__version__,
            options=options_payload(options),
            environment=environment_payload(),
            checkpoints=(path.stem,),
            entries={task.spec.name: BaselineEntry(record=record_of(analyze_matrix(task))) for task in tasks},
            tensors=records_of_tensors(description),
        )
        write_baseline(path, recorded, tool_payload())
        self._path, self._baseline = path, read_baseline(path)

    def failing(self, state: State) -> frozenset[str]:
        """Return the names of the checks that fail."""
        description = describe(state, gate_options(self._config, has_baseline=True))
        source = open_recorded(self._baseline, self._path, description)
        model = plan_model(description, self._config, name="model", baseline=source, profile="finetune")
        checks = [*model_checks(model), *(c for spec in description.matrices for c in layer_checks(model, spec))]
        gate = Gate(n_jobs=1)
        try:
            return frozenset(c.name for c in checks if gate.judge(c).verdict in (Verdict.FAIL, Verdict.ERROR))
        finally:
            gate.close()


@dataclass(frozen=True)
class Outcome:
    """One continuation: test accuracy before and after, and the checks that fail."""

    kind: str
    before: float
    after: float
    failing: frozenset[str]

    @property
    def drop(self) -> float:
        return self.before - self.after


def outcomes_of(network: Network, seed: int, folder: Path) -> list[Outcome]:
    """Train a network, continue it in every way, and judge."""
    torch.manual_seed(seed)
    data = network.data(seed)
    half, most = len(data.x) // 2, 3 * len(data.x) // 4
    case = Case(network.training, data.part(0, half), data.part(half, most), data.part(most, len(data.x)), seed)
    base = network.make()
    train(base, case.base, network.training, seed)
    judge, before = Judge(state_of(base), folder / "baseline.ww.json"), accuracy(base, case.test)
    (folder / "baseline.ww.json").unlink()
    found = []
    for kind, continuation in {**HEALTHY, **BAD}.items():
        model = copy.deepcopy(base)
        continuation(model, case)
        found.append(Outcome(kind, before, accuracy(model, case.test), judge.failing(state_of(model))))
    return found


def state_of(model: nn.Module) -> State:
    return {name: values.detach().numpy().copy() for name, values in model.state_dict().items()}


def print_kinds(title: str, kinds: Iterable[str], outcomes: list[Outcome]) -> None:
    print(f"\n{title:40}{'n':>4}{'before':>8}{'median':>8}{'worst':>7}{'failing':>9}  by (share of these)")
    for kind in kinds:
        found = [outcome for outcome in outcomes if outcome.kind == kind]
        rules = Counter(name.removeprefix("regression.") for outcome in found for name in outcome.failing)
        names = ", ".join(f"{name} {100 * n / len(found):.0f}%" for name, n in rules.most_common(4))
        before = statistics.median(outcome.before for outcome in found)
        after = [outcome.after for outcome in found]
        print(
            f"{kind:40}{len(found):4}{100 * before:8.1f}{100 * statistics.median(after):8.1f}{100 * min(after):7.1f}"
            f"{share_failing(found):>9}  {names}"
        )


def share_failing(outcomes: list[Outcome]) -> str:
    n_failing = sum(bool(outcome.failing) for outcome in outcomes)
    return f"{100 * n_failing / len(outcomes):.0f}%" if outcomes else "-"


def print_totals(outcomes: list[Outcome]) -> None:
    meant_well = [outcome for outcome in outcomes if outcome.kind in HEALTHY]
    healthy = [outcome for outcome in meant_well if outcome.drop <= UNHARMED]
    n_passing = sum(not outcome.failing for outcome in healthy)
    print(
        f"\nhealthy (accuracy fell by at most {100 * UNHARMED:.0f} points): {n_passing} of {len(healthy)} pass, "
        f"{100 * n_passing / len(healthy):.1f}%; {len(meant_well) - len(healthy)} meant to be healthy fell by more"
    )
    for drop in DROPS:
        bad = [outcome for outcome in outcomes if outcome.kind in BAD and outcome.drop > drop]
        n_failing = sum(bool(outcome.failing) for outcome in bad)
        print(f"bad, accuracy fell by more than {100 * drop:.0f} points: {n_failing} of {len(bad)} fail, ", end="")
        print(share_failing(bad))
    bad = [outcome for outcome in outcomes if outcome.kind in BAD and outcome.drop > DROPS[0]]
    print(f"\n{'check':32}{'healthy failing':>16}{'bad failing':>13}{'bad that only it fails':>24}")
    for name in sorted(frozenset().union(*(outcome.failing for outcome in outcomes))):
        alarms = sum(name in outcome.failing for outcome in healthy)
        hits = sum(name in outcome.failing for outcome in bad)
        alone = sum(outcome.failing == {name} for outcome in bad)
        print(f"{name:32}{alarms:16}{hits:13}{alone:24}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind")
    parser.add_argument("--first-seed", type=int, default=400)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                start = time.perf_counter()
                found = outcomes_of(NETWORKS[name], seed, Path(folder))
                outcomes += found
                print(f"{name}, seed {seed}: {found[0].before:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    print_kinds("healthy", HEALTHY, outcomes)
    print_kinds("bad", BAD, outcomes)
    print_totals(outcomes)


if __name__ == "__main__":
    main()
