"""One torch model with a layer of every kind, and its matrices cut out by hand."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils import parametrizations, prune

if TYPE_CHECKING:
    from numpy.typing import NDArray

TORCH_GATES = {"LSTM": "ifgo", "GRU": "rzn"}


class Conv1D(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """GPT-2's dense layer, which stores (in, out); transformers calls it so."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(n_in, n_out))


class FusedExperts(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """A mixture of experts with a stack of matrices in one parameter."""

    def __init__(self, n_experts: int, n_in: int, n_hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.empty(n_experts, n_in, 2 * n_hidden))
        self.down_proj = torch.nn.Parameter(torch.empty(n_experts, n_hidden, n_in))


def every_layer_model(seed: int) -> Any:
    """Return a model with a layer of every kind that has weights; heavy-tailed values drawn from ``seed``.

    Its layers do not fit together: it has no forward pass. Some are wrapped (weight norm, pruning, ..) or tied.
    """
    nn = torch.nn
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(40, 30),
            "embedding": nn.Embedding(50, 24),
            "bag": nn.EmbeddingBag(50, 20),
            "bilinear": nn.Bilinear(26, 22, 3),
            "conv1d": nn.Conv1d(24, 32, 5),
            "conv1d_grouped": nn.Conv1d(40, 60, 3, groups=2),
            "conv2d": nn.Conv2d(20, 30, 3),
            "conv2d_wide_kernel": nn.Conv2d(20, 10, 17),
            "conv2d_grouped": nn.Conv2d(80, 96, 3, groups=4),
            "conv2d_depthwise": nn.Conv2d(24, 48, 3, groups=24),
            "conv3d": nn.Conv3d(20, 22, 2),
            "conv3d_grouped": nn.Conv3d(40, 44, 2, groups=2),
            "transposed1d": nn.ConvTranspose1d(24, 30, 4),
            "transposed2d": nn.ConvTranspose2d(30, 22, 3),
            "transposed2d_grouped": nn.ConvTranspose2d(60, 40, 3, groups=2),
            "transposed3d": nn.ConvTranspose3d(20, 24, 2),
            "lstm": nn.LSTM(24, 20, num_layers=2, bidirectional=True),
            "lstm_projected": nn.LSTM(26, 24, proj_size=20),
            "gru": nn.GRU(24, 20),
            "rnn": nn.RNN(26, 22),
            "lstm_cell": nn.LSTMCell(22, 24),
            "gru_cell": nn.GRUCell(22, 24),
            "rnn_cell": nn.RNNCell(22, 24),
            "attention": nn.MultiheadAttention(24, 4),
            "cross_attention": nn.MultiheadAttention(24, 4, kdim=20, vdim=22),
            "c_attn": Conv1D(72, 24),
            "qkv": nn.Linear(24, 72),
            "experts": FusedExperts(3, 24, 22),
            "weight_norm": parametrizations.weight_norm(nn.Linear(24, 30)),
            "spectral_norm": parametrizations.spectral_norm(nn.Linear(24, 30)),
            "orthogonal": parametrizations.orthogonal(nn.Linear(24, 24)),
            "old_weight_norm": _old_weight_norm(nn.Conv2d(20, 24, 3)),
            "pruned": nn.Linear(24, 30),
            "norm": nn.LayerNorm(20),
            "tied": nn.Linear(24, 50, bias=False),
        }
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # A quotient of normals and an average of three squares: Student's t with three degrees of freedom.
            normal = torch.randn((4, *parameter.shape), generator=generator)
            parameter.copy_(normal[0] / normal[1:].square().mean(0).sqrt())
    prune.l1_unstructured(model["pruned"], "weight", amount=0.4)  # type: ignore[no-untyped-call, unused-ignore]
    model["tied"].weight = model["embedding"].weight
    return model


def _old_weight_norm(layer: Any) -> Any:
    with warnings.catch_warnings():
        # Deprecated, but checkpoints have it.
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(layer)


def hand_cut(model: Any) -> dict[str, list[NDArray[Any]]]:
    """Layer name -> the slices of every matrix of :func:`every_layer_model`, each cut by its layer's definition."""
    cuts: dict[str, list[NDArray[Any]]] = {}

    def add(name: str, *slices: Any) -> None:
        cuts[name] = [part.detach().double().numpy() for part in slices]

    for name in ("linear", "embedding", "bag"):
        add(name, model[name].weight)
    add("bilinear", *model["bilinear"].weight)
    for name in ("conv1d", "conv2d", "conv2d_wide_kernel", "conv3d", "transposed1d", "transposed2d", "transposed3d"):
        add(name, *model[name].weight.flatten(2).unbind(-1))
    for name in ("conv1d_grouped", "conv2d_grouped", "conv3d_grouped", "transposed2d_grouped"):
        layer = model[name]
        blocks = layer.weight.flatten(2).chunk(layer.groups)
        add(name, *[position for block in blocks for position in block.unbind(-1)])
    _add_recurrent(model, add)
    attention, cross = model["attention"], model["cross_attention"]
    for letter, block in zip("qkv", attention.in_proj_weight.chunk(3), strict=True):
        add(f"attention.in_proj_weight.{letter}", block)
        add(f"cross_attention.{letter}_proj_weight", getattr(cross, f"{letter}_proj_weight"))
    add("attention.out_proj", attention.out_proj.weight)
    add("cross_attention.out_proj", cross.out_proj.weight)
    for letter, block in zip("qkv", model["c_attn"].weight.chunk(3, dim=1), strict=True):
        add(f"c_attn.{letter}", block)
    for letter, block in zip("qkv", model["qkv"].weight.chunk(3), strict=True):
        add(f"qkv.{letter}", block)
    for name in ("gate_up_proj", "down_proj"):
        for index, expert in enumerate(getattr(model["experts"], name)):
            add(f"experts.{name}.{index}", expert)
    _add_wrapped(model, add)
    return cuts


def _add_recurrent(model: Any, add: Any) -> None:
    for name in ("lstm", "gru", "rnn", "lstm_projected", "lstm_cell", "gru_cell", "rnn_cell"):
        gates = TORCH_GATES.get(name.partition("_")[0].upper(), "")
        for parameter, weight in model[name].named_parameters():
            if "weight_hr" in parameter or ("weight" in parameter and not gates):
                add(f"{name}.{parameter}", weight)
            elif "weight" in parameter:
                for gate, block in zip(gates, weight.chunk(len(gates)), strict=True):
                    add(f"{name}.{parameter}.{gate}", block)


def _add_wrapped(model: Any, add: Any) -> None:
    norms = model["weight_norm"].parametrizations.weight
    v = norms.original1
    add("weight_norm", norms.original0 * v / v.square().sum(1, keepdim=True).sqrt())
    spectral = model["spectral_norm"].parametrizations.weight
    u, right, matrix = spectral[0]._u, spectral[0]._v, spectral.original
    add("spectral_norm", matrix / (u @ matrix @ right))
    add("orthogonal", model["orthogonal"].weight)
    old = model["old_weight_norm"]
    weight = old.weight_g * old.weight_v / old.weight_v.square().sum((1, 2, 3), keepdim=True).sqrt()
    add("old_weight_norm", *weight.flatten(2).unbind(-1))
    add("pruned", model["pruned"].weight_orig * model["pruned"].weight_mask)
