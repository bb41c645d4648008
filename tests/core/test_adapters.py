"""LoRA adapters: files, modules and state dicts in the layout of PEFT."""

from __future__ import annotations

import json
import math
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.adapter_config import MAX_CONFIG_BYTES, parse_adapter_config
from spectral.adapters import SAVED_WHOLE, adapter_source
from spectral.analysis import analyze, describe
from spectral.errors import (
    CorruptCheckpointError,
    ModelError,
    ModelMismatchError,
    ModelNotFoundError,
    OptionError,
    UnsupportedModelError,
)
from spectral.loaders.protocol import LayerType, TensorInfo, TensorSource
from spectral.lora import parse_factor_name, product_singular_values
from spectral.parts import equal_rows
from spectral.power_law import PowerLawFit, fit_power_law
from tests.core.builders import heavy_tailed, write_safetensors
from tests.core.oracle_cross import oracle_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
PREFIX = "base_model.model."


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return heavy_tailed(*shape, seed=seed).astype(np.float32)


def factors(path: str = "q", *, rank: int = 4, n_in: int = 30, n_out: int = 20, seed: int = 0) -> dict[str, Any]:
    return {
        f"{PREFIX}{path}.lora_A.weight": floats(rank, n_in, seed=seed),
        f"{PREFIX}{path}.lora_B.weight": floats(n_out, rank, seed=seed + 1),
    }


def product(tensors: dict[str, Any], path: str = "q") -> NDArray[np.float64]:
    a, b = (tensors[f"{PREFIX}{path}.lora_{end}.weight"].astype(np.float64) for end in "AB")
    return np.asarray(b @ a)


def folder(path: Path, tensors: dict[str, Any], config: object = CONFIG) -> Path:
    write_safetensors(path / "adapter_model.safetensors", tensors)
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


# --- the update ---------------------------------------------------------------------------------------------


def test_a_folder(tmp_path: Path) -> None:
    tensors = factors()
    source = adapter_source(folder(tmp_path, tensors))
    assert isinstance(source, TensorSource)
    (info,) = source.tensors()
    assert (info.name, info.shape, info.dtype) == (f"{PREFIX}q.lora_BA.weight", (20, 30), "float64")
    assert (info.role, info.max_rank) == (LayerType.LORA, 4)
    np.testing.assert_allclose(source.load(info.name), 2.0 * product(tensors), rtol=1e-12)
    same = adapter_source(tmp_path / "adapter_model.safetensors")
    assert same.load(info.name).tobytes() == source.load(info.name).tobytes()


def test_a_torch_file(tmp_path: Path) -> None:
    tensors = factors()
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    source = adapter_source(tmp_path)
    np.testing.assert_allclose(source.load(f"{PREFIX}q.lora_BA.weight"), 2.0 * product(tensors), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"lora_alpha": 3.5}, 0.875),
        ({"alpha_pattern": {"q": 32}}, 8.0),
        ({"alpha_pattern": {"self.q": 32}}, 8.0),
        ({"alpha_pattern": {"^h.0.self.q$": 32}}, 8.0),
        ({"alpha_pattern": {"^self.q": 32, "elf.q": 12, "k": 16}}, 2.0),
        ({"alpha_pattern": {"q": 32}, "use_rslora": True}, 16.0),
        ({"r": 16, "rank_pattern": {"q": 4}}, 2.0),
        ({"lora_alpha": 0}, 0.0),
        ({"init_lora_weights": "pissa_niter_4"}, 2.0),
        ({"use_dora": False, "target_parameters": None, "layer_replication": None, "rank_pattern": None}, 2.0),
    ],
)
def test_scaling(changes: dict[str, Any], factor: float) -> None:
    tensors = factors("h.0.self.q")
    source = adapter_source(tensors, config={**CONFIG, **changes})
    np.testing.assert_allclose(
        source.load(f"{PREFIX}h.0.self.q.lora_BA.weight"), factor * product(tensors, "h.0.self.q")
    )


def test_scaling_by_hand_needs_no_configuration(tmp_path: Path) -> None:
    tensors = factors()
    np.testing.assert_allclose(adapter_source(tensors, scaling=1.0).load(f"{PREFIX}q.lora_BA.weight"), product(tensors))
    np.testing.assert_allclose(
        adapter_source(folder(tmp_path, tensors), scaling=0.5).load(f"{PREFIX}q.lora_BA.weight"), 0.5 * product(tensors)
    )


def test_fan_in_fan_out_is_stored_transposed() -> None:
    tensors = factors()
    source = adapter_source(tensors, config={**CONFIG, "fan_in_fan_out": True})
    assert source.tensors()[0].shape == (30, 20)
    np.testing.assert_allclose(source.load(f"{PREFIX}q.lora_BA.weight"), 2.0 * product(tensors).T)


def test_an_embedding() -> None:
    a, b = floats(4, 100), floats(24, 4, seed=1)
    tensors = {f"{PREFIX}wte.lora_embedding_A": a, f"{PREFIX}wte.lora_embedding_B": b}
    source = adapter_source(tensors, config=CONFIG)
    (info,) = source.tensors()
    assert (info.name, info.shape, info.role) == (f"{PREFIX}wte.lora_embedding_BA", (100, 24), LayerType.EMBEDDING)
    np.testing.assert_allclose(source.load(info.name), 2.0 * (b.astype(float) @ a.astype(float)).T)


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (1, 1)])
def test_a_convolution_is_what_two_convolutions_in_a_row_do(kernel: tuple[int, ...]) -> None:
    a, b = heavy_tailed(4, 6, *kernel), heavy_tailed(5, 4, *[1] * len(kernel), seed=1)
    source = adapter_source({"c.lora_A.weight": a, "c.lora_B.weight": b}, config=CONFIG)
    (info,) = source.tensors()
    assert info.role is {1: LayerType.CONV1D, 2: LayerType.CONV2D}[len(kernel)]
    image = torch.from_numpy(heavy_tailed(1, 6, *[9] * len(kernel), seed=2))
    convolve: Any = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[len(kernel)]
    one, two, merged = (torch.from_numpy(values) for values in (a, b, source.load(info.name)))
    np.testing.assert_allclose(convolve(image, merged), 2.0 * convolve(convolve(image, one), two), rtol=1e-9, atol=1e-9)
    assert source.factors(info.name) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.booleans(), st.integers(0, 999))
def test_singular_values_of_the_product_without_the_product(
    rank: int, n_in: int, n_out: int, turned: bool, seed: int
) -> None:
    tensors = factors(rank=rank, n_in=n_in, n_out=n_out, seed=seed)
    source = adapter_source(tensors, config={"lora_alpha": 3, "fan_in_fan_out": turned})
    pair = source.factors(f"{PREFIX}q.lora_BA.weight")
    assert pair is not None
    whole = source.load(f"{PREFIX}q.lora_BA.weight")
    np.testing.assert_allclose(pair[0] @ pair[1], whole, rtol=1e-9, atol=1e-9)
    found = product_singular_values(*pair)
    slow = np.linalg.svd(whole, compute_uv=False)[::-1]
    np.testing.assert_allclose(found, slow[len(slow) - len(found) :], rtol=1e-9, atol=1e-12 * max(slow[-1], 1.0))
    np.testing.assert_allclose(slow[: len(slow) - len(found)], 0.0, atol=1e-12 * max(slow[-1], 1.0))


# --- on its base --------------------------------------------------------------------------------------------


def base_arrays() -> dict[str, Any]:
    return {
        "q.weight": floats(20, 30, seed=7),
        "q.bias": floats(20, seed=8),
        "head.weight": floats(12, 20, seed=9),
    }


@pytest.mark.parametrize("prefix", ["", "model.", "bert."])
def test_with_base(prefix: str) -> None:
    tensors = factors()
    base = {prefix + name: values for name, values in base_arrays().items()}
    source = adapter_source(tensors, base, mode="with_base", config=CONFIG)
    update, weight = 2.0 * product(tensors), base[f"{prefix}q.weight"]
    assert [info.name for info in source.tensors()] == [
        *base,
        *(f"{PREFIX}q.lora_{e}.weight" for e in ("BA", "W_plus_AB")),
    ]
    np.testing.assert_array_equal(source.load(f"{prefix}q.weight"), weight)
    np.testing.assert_allclose(source.load(f"{PREFIX}q.lora_BA.weight"), update)
    np.testing.assert_allclose(source.load(f"{PREFIX}q.lora_W_plus_AB.weight"), weight + update, rtol=1e-6)
    ranks = {info.name: info.max_rank for info in source.tensors()}
    assert ranks[f"{PREFIX}q.lora_BA.weight"] == 4
    assert ranks[f"{PREFIX}q.lora_W_plus_AB.weight"] is None
    again = pickle.loads(pickle.dumps(source))
    assert again.load(f"{PREFIX}q.lora_BA.weight").tobytes() == source.load(f"{PREFIX}q.lora_BA.weight").tobytes()


def test_merged_has_the_names_and_shapes_of_the_base() -> None:
    tensors, base = factors(), base_arrays()
    source = adapter_source(tensors, base, mode="merged", config=CONFIG)
    assert [(i.name, i.shape) for i in source.tensors()] == [(name, values.shape) for name, values in base.items()]
    np.testing.assert_allclose(source.load("q.weight"), base["q.weight"] + 2.0 * product(tensors), rtol=1e-6)
    assert source.load("q.weight").dtype == np.float32
    np.testing.assert_array_equal(source.load("head.weight"), base["head.weight"])
    assert describe(source).coverage == pytest.approx(1.0 - 20 / (600 + 20 + 240))


def test_pieces_of_a_merged_model() -> None:
    base = {**base_arrays(), "experts": floats(3, 6, 5)}
    source = adapter_source(factors(), base, mode="merged", config=CONFIG)
    for name in ("q.weight", "experts"):
        np.testing.assert_array_equal(source.load_span(name, 5, 80), source.load(name).reshape(-1)[5:80])


def test_a_merged_weight_is_cut_as_its_base() -> None:
    parts = equal_rows(LayerType.ATTENTION, (18, 30), ("q", "k", "v"))
    info = TensorInfo(name="q.weight", shape=(18, 30), dtype="float32", parts=parts)
    base = SimpleNamespace(label="base", tensors=lambda: (info,), load=lambda _: floats(18, 30, seed=7))
    source = adapter_source(factors(n_out=18), base, mode="merged", config=CONFIG)
    assert [spec.name for spec in describe(source).matrices] == ["q.q", "q.k", "q.v"]


def test_modules_saved_whole() -> None:
    tensors = {**factors(), f"{PREFIX}head.weight": floats(12, 20, seed=11)}
    (row,) = describe(adapter_source(tensors, config=CONFIG)).unanalysed
    assert (row.name, row.reason) == (f"{PREFIX}head.weight", SAVED_WHOLE)
    merged = adapter_source(tensors, base_arrays(), mode="merged", config=CONFIG)
    np.testing.assert_array_equal(merged.load("head.weight"), tensors[f"{PREFIX}head.weight"])
    new = {**factors(), f"{PREFIX}classifier.weight": floats(2, 20)}
    merged = adapter_source(new, base_arrays(), mode="merged", config=CONFIG)
    assert "classifier.weight" in {info.name for info in merged.tensors()}


def test_a_layer_that_the_base_lacks_is_a_row() -> None:
    tensors = {**factors(), **factors("k", seed=5)}
    source = adapter_source(tensors, base_arrays(), mode="with_base", config=CONFIG)
    (row,) = describe(source).unanalysed
    assert row.name == f"{PREFIX}k.lora_W_plus_AB.weight"
    assert row.reason == f"the base model has no weight of the adapted layer '{PREFIX}k'"
    with pytest.raises(ModelError, match="the base model has no weight of the adapted layer"):
        source.load(row.name)


def test_a_weight_of_another_shape_is_a_row() -> None:
    tensors = {**factors(), **factors("head", n_in=5, n_out=6, seed=5)}
    (row,) = describe(adapter_source(tensors, base_arrays(), mode="merged", config=CONFIG)).unanalysed
    assert (row.name, row.reason) == ("head.weight", "its update is (6, 5) and the weight of the base (12, 20)")


def test_overflow_is_a_finding_not_a_warning() -> None:
    tensors = {name: values * np.float32(1e30) for name, values in factors().items()}
    (layer,) = analyze(adapter_source(tensors, config={**CONFIG, "lora_alpha": 1e300}), n_workers=1).layers
    assert layer.reason is not None
    assert "values are NaN or infinite" in layer.reason


# --- modules ------------------------------------------------------------------------------------------------


class Wrapped(torch.nn.Module):  # type: ignore[misc]  # torch has no types here
    """What PEFT puts in place of a linear layer, as far as names go."""

    def __init__(self, n_in: int, n_out: int, rank: int, seed: int, names: tuple[str, ...] = ("default",)) -> None:
        super().__init__()
        self.base_layer = torch.nn.Linear(n_in, n_out, bias=False)
        self.lora_A = torch.nn.ModuleDict({name: torch.nn.Linear(n_in, rank, bias=False) for name in names})
        self.lora_B = torch.nn.ModuleDict({name: torch.nn.Linear(rank, n_out, bias=False) for name in names})
        with torch.no_grad():
            for position, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.from_numpy(floats(*parameter.shape, seed=seed + position)))


def peft_module(rank: int = 32, **config: Any) -> Any:
    root = torch.nn.Module()
    root.layer = Wrapped(120, 90, rank, 0)
    root.other = Wrapped(80, 100, rank, 10)
    root.peft_config = {"default": SimpleNamespace(**{**CONFIG, "r": rank, "lora_alpha": rank, **config})}
    return root


def test_a_module_needs_no_base() -> None:
    module = peft_module(4, lora_alpha=8)
    source = adapter_source(module)
    assert [info.name for info in source.tensors()] == ["layer.lora_BA.default.weight", "other.lora_BA.default.weight"]
    merged = adapter_source(module, mode="merged")
    assert [info.name for info in merged.tensors()] == ["layer.weight", "other.weight"]
    lora = module.layer
    expected = lora.base_layer.weight + 2.0 * lora.lora_B["default"].weight @ lora.lora_A["default"].weight
    np.testing.assert_allclose(merged.load("layer.weight"), expected.detach(), rtol=1e-4, atol=1e-5)
    same = adapter_source(module.state_dict(), mode="merged", config={**CONFIG, "r": 4})
    assert same.load("layer.weight").tobytes() == merged.load("layer.weight").tobytes()


def test_a_state_dict_of_a_whole_model_with_saved_modules() -> None:
    state = {
        **{f"m.{name}": value for name, value in peft_module(4).state_dict().items()},
        "m.head.original_module.weight": torch.ones(6, 5),
        "m.head.modules_to_save.default.weight": torch.full((6, 5), 3.0),
    }
    source = adapter_source(state, config=CONFIG, mode="merged")
    assert [info.name for info in source.tensors()] == ["m.layer.weight", "m.other.weight", "m.head.weight"]
    assert np.all(source.load("m.head.weight") == 3.0)


@pytest.mark.parametrize(("name", "seed"), [("one", 1), ("two", 2)])
def test_several_adapters(name: str, seed: int) -> None:
    module = torch.nn.Module()
    module.q = Wrapped(10, 8, 4, 0, names=("one", "two"))
    config = SimpleNamespace(**CONFIG)
    module.peft_config = {"one": config, "two": config}
    source = adapter_source(module, adapter_name=name)
    analysed = [info.name for info in source.tensors() if info.refusal is None]
    assert analysed == [f"q.lora_BA.{name}.weight"]
    rows = {info.refusal for info in source.tensors() if info.refusal is not None}
    assert rows == {"a factor of another adapter"}
    with pytest.raises(OptionError, match=r"adapter_name must be one of one, two, got None$"):
        adapter_source(module)
    with pytest.raises(OptionError, match=r"adapter_name must be one of one, two, got 'three'$"):
        adapter_source(module, adapter_name="three")
    with pytest.raises(OptionError, match=r"holds several adapters \(one, two\): choose one by adapter_name$"):
        adapter_source(module.state_dict(), config=CONFIG)
    with pytest.raises(OptionError, match=r"has no adapter named 'three'; there are one, two$"):
        adapter_source(module.state_dict(), config=CONFIG, adapter_name="three")


def test_a_merged_module_is_not_merged_twice() -> None:
    module = peft_module(4)
    module.layer.merged = True
    with pytest.raises(ModelMismatchError, match=r"^Module: 'layer' is merged with its adapter already"):
        adapter_source(module, mode="merged")
    assert len(adapter_source(module).tensors()) == 2


# --- the incumbent ------------------------------------------------------------------------------------------


def test_same_numbers_as_the_incumbent() -> None:
    module = peft_module()
    theirs = oracle_adapter(module, True)
    source = adapter_source(module, scaling=1.0)
    layers = [info.name.removesuffix(".weight") for info in source.tensors()]
    assert list(theirs.index) == layers
    for layer in layers:
        pair = source.factors(f"{layer}.weight")
        assert pair is not None
        evals = product_singular_values(*pair) ** 2
        row = theirs.loc[layer]
        fit = fit_power_law(evals, min_evals=2)
        assert isinstance(fit, PowerLawFit)
        assert row["num_evals"] == len(evals) == 32
        assert row["alpha"] == pytest.approx(fit.alpha, rel=1e-5)
        assert row["log_norm"] == pytest.approx(math.log10(evals.sum()), rel=1e-6)
        assert row["spectral_norm"] == pytest.approx(evals[-1], rel=1e-6)
        info = next(info for info in source.tensors() if info.name == f"{layer}.weight")
        assert (row["N"], row["M"]) == (max(info.shape), min(info.shape))


def test_same_numbers_as_the_incumbent_with_base() -> None:
    module = peft_module()
    theirs = oracle_adapter(module, "with_base")
    source = adapter_source(module, scaling=1.0, mode="with_base")
    renamed = {"layer.weight": "layer.base_layer", "other.weight": "other.base_layer"}
    ours = {renamed.get(info.name, info.name.removesuffix(".weight")): info.name for info in source.tensors()}
    assert set(theirs.index) == set(ours)
    for layer, name in ours.items():
        evals = np.linalg.svd(source.load(name).astype(float), compute_uv=False) ** 2
        # It takes only r eigenvalues of W + BA, too, although that has full rank.
        n_evals = 32 if "lora" in layer else len(evals)
        assert theirs.loc[layer, "num_evals"] == n_evals
        assert theirs.loc[layer, "log_norm"] == pytest.approx(math.log10(evals[:n_evals].sum()), rel=1e-6)


def test_the_incumbent_forgets_alpha() -> None:
    plain, strong = (oracle_adapter(peft_module(lora_alpha=alpha), True) for alpha in (32, 320))
    # Its truncated SVD starts from a random vector.
    np.testing.assert_allclose(plain["spectral_norm"], strong["spectral_norm"], rtol=1e-9)
    ours = [
        np.linalg.norm(adapter_source(peft_module(lora_alpha=alpha)).load("layer.lora_BA.default.weight"), 2)
        for alpha in (32, 320)
    ]
    assert ours[1] == pytest.approx(10 * ours[0], rel=1e-9)


# --- errors -------------------------------------------------------------------------------------------------


def without(tensors: dict[str, Any], end: str) -> dict[str, Any]:
    return {name: values for name, values in tensors.items() if end not in name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without(factors(), "lora_B"), r"^dict: 'base_model.model.q.lora_A.weight' has no partner lora_B$"),
        (without(factors(), "lora_A"), r"^dict: 'base_model.model.q.lora_B.weight' has no partner lora_A$"),
        (
            {**factors(), f"{PREFIX}q.lora_B.weight": floats(20, 5)},
            r"q.lora_A.weight \(4, 30\) and .* \(20, 5\) do not chain",
        ),
        (
            {**factors(), f"{PREFIX}q.lora_B.weight": floats(20, 4, 1)},
            r"do not chain: expected \(r, in, ..\) and \(out, r",
        ),
        ({"q.lora_A.weight": floats(4, 3, 3, 3), "q.lora_B.weight": floats(5, 4, 3, 3)}, r"do not chain"),
        ({"q.lora_A.weight": floats(0, 3), "q.lora_B.weight": floats(5, 0)}, r"do not chain"),
        (factors(rank=5), r"have rank 5, but the configuration says 4$"),
        ({"w": floats(3, 3)}, r"^dict: holds no tensor named lora_A or lora_B, so it is no LoRA adapter$"),
        ({**factors(), f"{PREFIX}q.lora_A": floats(4, 30)}, r"are the same factor$"),
    ],
)
def test_factors_that_do_not_fit(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=message):
        adapter_source(tensors, config=CONFIG)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], r"expected an object with r and lora_alpha, got a list$"),
        (None, r"expected an object with r and lora_alpha, got None$"),
        ({"r": 4}, r"has no lora_alpha, so the scale of B·A is not known$"),
        ({**CONFIG, "lora_alpha": "16"}, r"lora_alpha must be a finite number, got '16'$"),
        ({**CONFIG, "lora_alpha": True}, r"lora_alpha must be a finite number, got True$"),
        ({**CONFIG, "lora_alpha": None}, r"lora_alpha must be a finite number, got None$"),
        ({**CONFIG, "lora_alpha": math.nan}, r"lora_alpha must be a finite number, got nan$"),
        ({**CONFIG, "lora_alpha": 10**400}, r"lora_alpha must be a finite number, got a huge integer$"),
        ({**CONFIG, "r": 0}, r"r must be an integer from 1 to 1000000, got 0$"),
        ({**CONFIG, "r": 10**5000}, r"r must be an integer from 1 to 1000000, got a huge integer$"),
        ({**CONFIG, "r": 4.0}, r"r must be an integer .*, got 4.0$"),
        ({**CONFIG, "r": {"x": 1}}, r"r must be an integer .*, got a dict$"),
        ({**CONFIG, "use_rslora": "yes"}, r"use_rslora must be true or false, got 'yes'$"),
        ({**CONFIG, "fan_in_fan_out": 1}, r"fan_in_fan_out must be true or false, got 1$"),
        ({**CONFIG, "alpha_pattern": [1]}, r"alpha_pattern must be an object, got a list$"),
        ({**CONFIG, "alpha_pattern": {"q": "x"}}, r"alpha_pattern\['q'\] must be a finite number, got 'x'$"),
        ({**CONFIG, "rank_pattern": {"q": -1}}, r"rank_pattern\['q'\] must be an integer .*, got -1$"),
    ],
)
def test_impossible_configurations(config: Any, message: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=message):
        parse_adapter_config(config, "adapter")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, r"peft_type is 'LOHA': only LORA is read$"),
        ({"peft_type": 3}, r"peft_type is 3: only LORA is read$"),
        ({"use_dora": True}, r"use_dora is set: a DoRA update also rescales every column of the base"),
        ({"target_parameters": ["experts"]}, r"target_parameters is set: the update is not"),
        ({"layer_replication": [[0, 4]]}, r"layer_replication is set: the update is not"),
        ({"rank_pattern": {"(a+)+$": 4}}, r"rank_pattern has the regular expression '\(a\+\)\+\$': only the ends"),
    ],
)
def test_configurations_that_are_not_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse_adapter_config({**CONFIG, **changes}, "adapter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"adapter_config.json: not valid JSON"),
        (b"\xff", r"adapter_config.json: not valid JSON"),
        (b'{"r": 4, "r": 5}', r"not valid JSON \(the name 'r' appears twice\)$"),
        (b'{"r": ' + b"9" * 5000 + b"}", r"not valid JSON|huge integer"),
        (b"[" * 100_000, r"nested too deeply|not valid JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), r"larger than 1000000 bytes, which no adapter needs$"),
    ],
)
def test_hostile_files(tmp_path: Path, text: bytes, message: str) -> None:
    folder(tmp_path, factors())
    (tmp_path / "adapter_config.json").write_bytes(text)
    with pytest.raises(CorruptCheckpointError, match=message):
        adapter_source(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"the folder holds no adapter \(looked for adapter_model.safetensors"):
        adapter_source(tmp_path)
    folder(tmp_path, factors())
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"adapter_config.json: missing: without lora_alpha the scale"):
        adapter_source(tmp_path)
    assert len(adapter_source(tmp_path, scaling=1.0).tensors()) == 1
    with pytest.raises(
        OptionError, match=r"^dict: no configuration: without lora_alpha the scale of B·A is not known$"
    ):
        adapter_source(factors())


def test_a_dora_layer_is_a_row() -> None:
    tensors = {**factors(), **factors("k"), f"{PREFIX}q.lora_magnitude_vector": floats(20)}
    source = adapter_source(tensors, config=CONFIG)
    assert [spec.name for spec in describe(source).matrices] == [f"{PREFIX}k.lora_BA"]
    (row,) = describe(source).unanalysed
    assert row.name == f"{PREFIX}q.lora_BA.weight"
    assert row.reason.startswith("a DoRA layer: its magnitude vector rescales the base as well")


def test_unknown_variants_are_rows() -> None:
    tensors = {**factors(), f"{PREFIX}q.lora_C.weight": floats(4, 4), f"{PREFIX}q.lora_B.bias": floats(20)}
    (row,) = describe(adapter_source(tensors, config=CONFIG)).unanalysed
    assert (row.name, row.reason) == (
        f"{PREFIX}q.lora_C.weight",
        "part of a LoRA variant that is more than B·A, and is not analysed",
    )


@pytest.mark.parametrize("mode", ["with_base", "merged"])
def test_bases_that_do_not_do(mode: Any) -> None:
    with pytest.raises(
        ModelMismatchError, match=r"^dict: mode '\w+' needs the weights that were adapted: give base_model$"
    ):
        adapter_source(factors(), mode=mode, config=CONFIG)
    with pytest.raises(
        ModelMismatchError, match=r"the base fits none of the 1 adapted layers: .*has no weight of the adap"
    ):
        adapter_source(factors(), {"x.weight": floats(3, 3)}, mode=mode, config=CONFIG)
    with pytest.raises(ModelMismatchError, match=r"its update is \(20, 30\) and the weight of the base \(3, 3\)$"):
        adapter_source(factors(), {"q.weight": floats(3, 3)}, mode=mode, config=CONFIG)
    with pytest.raises(
        ModelMismatchError, match=r"init_lora_weights is 'pissa', which changed the base weights as well"
    ):
        adapter_source(factors(), base_arrays(), mode=mode, config={**CONFIG, "init_lora_weights": "pissa"})


@pytest.mark.parametrize("scaling", [math.nan, math.inf, True, "1"])
def test_impossible_scaling(scaling: Any) -> None:
    with pytest.raises(OptionError, match=r"^scaling must be a finite number, got "):
        adapter_source(factors(), scaling=scaling)


def test_impossible_mode() -> None:
    with pytest.raises(OptionError, match=r"^mode must be one of adapter_only, with_base, merged, got 'base'$"):
        adapter_source(factors(), mode="base", config=CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.lora_A.weight", ("a.b", "lora_A", "A", "")),
        ("a.b.lora_A.default.weight", ("a.b", "lora_A", "A", "default")),
        ("a.lora_embedding_B.x", ("a", "lora_embedding_B", "B", "x")),
        ("lora_B", ("", "lora_B", "B", "")),
        ("a.lora_B.bias", None),
        ("a.lora_A.x.y.weight", None),
        ("a.my_lora_A.weight", None),
    ],
)
def test_names(name: str, expected: tuple[str, ...] | None) -> None:
    found = parse_factor_name(name)
    assert (None if found is None else (found.path, found.part, found.end, found.adapter)) == expected


@pytest.mark.parametrize("mode", ["merged", "with_base"])
def test_whole_layers_beside_an_update_go_before_the_base(mode: Any) -> None:
    """PEFT saves embeddings that were enlarged as ``base_layer``, and heads as they are."""
    rng = np.random.default_rng(0)
    prefix = "base_model.model."
    adapter = {
        f"{prefix}emb.lora_embedding_A": rng.standard_normal((8, 120)),
        f"{prefix}emb.lora_embedding_B": rng.standard_normal((60, 8)),
        f"{prefix}emb.base_layer.weight": rng.standard_normal((120, 60)),
        f"{prefix}score.weight": 7.0 * rng.standard_normal((64, 60)),
    }
    base = {"emb.weight": rng.standard_normal((120, 60)), "score.weight": rng.standard_normal((64, 60))}
    layers = {
        layer.name: layer
        for layer in analyze(adapter_source(adapter, base, mode=mode, scaling=1.0), n_workers=1).layers
    }
    assert layers["score"].metrics["norm"] == pytest.approx(np.linalg.norm(adapter[f"{prefix}score.weight"]) ** 2)
    if mode == "merged":
        update = (adapter[f"{prefix}emb.lora_embedding_B"] @ adapter[f"{prefix}emb.lora_embedding_A"]).T
        expected = np.linalg.norm(adapter[f"{prefix}emb.base_layer.weight"] + update) ** 2
        assert layers["emb"].metrics["norm"] == pytest.approx(expected)
