"""What Keras layers keep in their variables: the rules by class, for models in memory and for files alike.

A layer is known by its class, its names for its variables, and the little of its configuration that changes what they
mean. The order of variables is that in which each class saves them (``save_own_variables`` of Keras 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectral.layouts import KERAS_GATES
from spectral.loaders.protocol import LayerType
from spectral.parts import Part, channels_last_kernel, equal_columns, matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

_GATES = (("lstm", KERAS_GATES[4]), ("gru", KERAS_GATES[3]), ("rnn", KERAS_GATES[1]))
"""Words in the class name of a recurrent layer or cell -> its gates, the first match wins."""

_CONVOLUTIONS = {3: LayerType.CONV1D, 4: LayerType.CONV2D, 5: LayerType.CONV3D}

_CONVOLVED = ("kernel", "bias")
_SEPARABLE = ("depthwise_kernel", "pointwise_kernel", "bias")
_CELL = ("kernel", "recurrent_kernel", "bias")

_DENSE_NAMES: dict[str | None, tuple[str, ...]] = {
    None: ("kernel", "bias"),
    "int8": ("kernel", "bias", "kernel_scale"),
    "int4": ("kernel", "bias", "kernel_scale", "kernel_zero", "g_idx"),
    "float8": (
        "kernel", "bias", "inputs_scale", "inputs_amax_history", "kernel_scale", "kernel_amax_history",
        "outputs_grad_scale", "outputs_grad_amax_history",
    ),
    "gptq": ("bias", "kernel", "kernel_scale", "kernel_zero", "g_idx"),
    "awq": ("bias", "kernel", "kernel_scale", "kernel_zero", "awq_scales", "g_idx"),
}  # fmt: skip
"""Mode of quantisation -> what a dense layer saves; what is optional is left out where it is not there."""

_EMBEDDING_NAMES: dict[str | None, tuple[str, ...]] = {
    None: ("embeddings", "reverse_embeddings"),
    "int8": ("embeddings", "embeddings_scale", "reverse_embeddings", "reverse_embeddings_scale"),
    "int4": (
        "embeddings", "embeddings_scale", "embeddings_zero", "g_idx", "reverse_embeddings",
        "reverse_embeddings_scale", "reverse_embeddings_zero",
    ),
}  # fmt: skip

_NAMES: dict[str, tuple[str, ...]] = {
    **{f"conv{n}d{kind}": _CONVOLVED for n in (1, 2, 3) for kind in ("", "transpose")},
    **{f"depthwiseconv{n}d": _CONVOLVED for n in (1, 2)},
    **{f"separableconv{n}d": _SEPARABLE for n in (1, 2)},
    **dict.fromkeys(("lstmcell", "grucell", "simplernncell", "convlstmcell"), _CELL),
    "batchnormalization": (
        "gamma", "beta", "moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev",
    ),
    "layernormalization": ("gamma", "beta"),
    "groupnormalization": ("gamma", "beta"),
    "rmsnormalization": ("scale",),
    "spectralnormalization": ("kernel", "vector_u"),
    "normalization": ("mean", "variance", "count"),
    "prelu": ("alpha",),
    "attention": ("scale", "concat_score_weight"),
    "additiveattention": ("scale",),
    "stftspectrogram": ("real_kernel", "imag_kernel"),
    "seedgenerator": ("seed_generator_state",),
}  # fmt: skip

_SWITCHES = {
    "bias": "use_bias", "gamma": "scale", "beta": "center", "scale": "use_scale", "moving_stddev": "renorm",
    "renorm_mean": "renorm", "renorm_stddev": "renorm",
}  # fmt: skip
"""Variable -> the entry of the configuration that says whether it is there."""

_ALWAYS = {"rmsnormalization"}

KNOWN_CLASSES = frozenset(
    {
        *_NAMES, "dense", "einsumdense", "embedding", "reversibleembedding", "lstm", "gru", "simplernn", "rnn",
        "convlstm1d", "convlstm2d", "convlstm3d", "stackedrnncells", "multiheadattention", "groupedqueryattention",
        "bidirectional", "timedistributed", "sequential", "functional", "model",
    }
)  # fmt: skip
"""Lower-case names of Keras's own classes that hold variables, themselves or in what they consist of."""

_NUMBERED = re.compile(r"_[0-9]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasLayer:
    """What the rules need to know of a layer.

    Attributes
    ----------
    class_names : str
        Its class and those above it, as far as they are known, in lower case and with spaces between.
    n_groups : int
        Groups of a convolution.
    equation : str, optional
        Of an EinsumDense.
    mode : str, optional
        How it is quantised, in Keras's words: int8, int4, float8, gptq, awq.
    kernel_shape : tuple of int, optional
        Of a kernel that is stored packed into a matrix, where that is known.
    n_outputs : int, optional
        Columns of an embedding.
    switches : tuple of (str, bool)
        Entries of the configuration that say whether a variable is there.
    """

    class_names: str
    n_groups: int = 1
    equation: str | None = None
    mode: str | None = None
    kernel_shape: tuple[int, ...] | None = None
    n_outputs: int | None = None
    switches: tuple[tuple[str, bool], ...] = ()

    @property
    def class_name(self) -> str:
        """The class itself."""
        return self.class_names.partition(" ")[0]


def layer_from_config(class_name: str, config: Mapping[str, Any]) -> KerasLayer:
    """Describe a layer by its class and its configuration, every value of which may be of any type."""
    groups, equation, n_outputs = config.get("groups"), config.get("equation"), config.get("output_dim")
    return KerasLayer(
        class_names=class_name.lower(),
        n_groups=groups if type(groups) is int and groups > 0 else 1,
        equation=equation if isinstance(equation, str) and len(equation) < 200 else None,
        mode=mode_of_policy(config.get("dtype")),
        n_outputs=n_outputs if type(n_outputs) is int else None,
        switches=tuple((key, value) for key, value in config.items() if type(value) is bool),
    )


def mode_of_policy(policy: Any) -> str | None:
    """Return the mode of quantisation that a serialised dtype policy names."""
    if isinstance(policy, dict) and isinstance(policy.get("config"), dict):
        mode = policy["config"].get("mode")
        # int4 and GPTQ have their block sizes behind: int4/128, gptq/4/64.
        if isinstance(mode, str):
            return mode.partition("/")[0]
    return None


def class_of_key(key: str) -> str | None:
    """Return the class that Keras made a default name or a key of (``conv2d_transpose_3``), of its own classes."""
    word = _NUMBERED.sub("", key).replace("_", "").lower()
    return word if word in KNOWN_CLASSES else None


def without_number(name: str) -> str:
    """Return a name without the number that tells it from the same name before it."""
    return _NUMBERED.sub("", name)


def variable_names(layer: KerasLayer, dtypes: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what a layer calls its own variables, in the order of a file, or None where their number tells of others.

    Parameters
    ----------
    layer : KerasLayer
        The layer.
    dtypes : tuple of str
        Types of the variables, in that order.
    """
    names, optional = _possible_names(layer, dtypes)
    switches = dict(layer.switches)
    if layer.class_name not in _ALWAYS:
        # What is not configured is there, but for the renormalisation of a batch normalisation.
        names = tuple(name for name in names if switches.get(_SWITCHES.get(name, ""), _SWITCHES.get(name) != "renorm"))
    candidates = [names, tuple(name for name in names if name not in optional)]
    if "use_bias" not in switches:
        candidates += [tuple(name for name in candidate if name != "bias") for candidate in candidates]
    return next((candidate for candidate in candidates if len(candidate) == len(dtypes)), None)


def rank_of_variable(layer: KerasLayer, leaf: str) -> int:
    """Return where a variable of this name comes among those of its layer."""
    names = _NAMES.get(layer.class_name) or ("kernel", "embeddings", "recurrent_kernel", "gamma", "bias", "beta")
    return names.index(leaf) if leaf in names else len(names)


def _possible_names(layer: KerasLayer, dtypes: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all names that a layer may have for its variables, and those of them that need not be there."""
    mode = layer.mode or _mode_of_types(dtypes)
    if layer.class_name in ("dense", "einsumdense"):
        names = _DENSE_NAMES.get(mode, ())
        if mode in ("gptq", "awq"):
            if layer.class_name == "einsumdense":
                names = tuple("zero_point" if name == "kernel_zero" else name for name in names)
            # Keras 3.15 leaves the zero points out of its files.
            return names, ("kernel_zero", "zero_point")
        return names, ("kernel_zero", "g_idx")
    if layer.class_name in ("embedding", "reversibleembedding"):
        names = _EMBEDDING_NAMES.get(mode, ())
        if layer.class_name == "embedding" or dict(layer.switches).get("tie_weights", True):
            names = tuple(name for name in names if not name.startswith("reverse"))
        return names, ("embeddings_zero", "g_idx", "reverse_embeddings_zero")
    names = _NAMES.get(layer.class_name, ())
    if layer.class_name == "attention" and len(dtypes) == 1 and not dict(layer.switches).get("use_scale", True):
        return ("concat_score_weight",), ()
    return names, ("count", "concat_score_weight")


def _mode_of_types(dtypes: tuple[str, ...]) -> str | None:
    """Return how a layer is quantised by the types of its variables, where nothing else says it."""
    if dtypes[:1] == ("int8",):
        return "int4" if len(dtypes) > 3 else "int8"
    if "uint8" in dtypes[:2]:
        n_floats = sum(dtype != "uint8" for dtype in dtypes[dtypes.index("uint8") :])
        return "gptq" if n_floats == 2 else "awq"
    return "float8" if len(dtypes) > 6 else None


def parts_of_variable(leaf: str, shape: tuple[int, ...], layer: KerasLayer) -> tuple[Part, ...] | None:
    """Return the matrices of a weight by the class of its layer; None leaves it to names and shapes."""
    is_kernel = leaf in ("kernel", "pointwise_kernel")
    if 0 in shape or len(shape) < 2:
        return None
    if leaf in ("kernel", "recurrent_kernel") and _is_recurrent(layer):
        return _gates(shape, layer.class_names)
    if "conv" in layer.class_names and len(shape) in _CONVOLUTIONS:
        return _convolution(shape, leaf, "depthwise" in layer.class_names, layer.n_groups)
    if is_kernel and layer.equation is not None:
        return _einsum(shape, layer.equation)
    if len(shape) == 2 and (is_kernel or "embedding" in layer.class_names):
        return matrix(LayerType.DENSE if is_kernel else LayerType.EMBEDDING, *shape)
    return None


def projection_equation(n_axes: int, n_rows: int) -> str:
    """Return an equation like those of an attention's projections: the first axes of the kernel are summed over."""
    letters = "abcdefghijklmnopqrstuvw"[:n_axes]
    return f"z{letters[:n_rows]},{letters}->z{letters[n_rows:]}"


def equation_axes(equation: str) -> tuple[str, str, str]:
    """Return the letters of data, kernel and output of an EinsumDense."""
    inputs, _, output = equation.replace(" ", "").replace(".", "").partition("->")
    data, _, kernel = inputs.partition(",")
    return data, kernel, output


def _is_recurrent(layer: KerasLayer) -> bool:
    # Before TensorFlow 2 the layer itself held what its cell holds today.
    return "cell" in layer.class_names or layer.class_name in ("lstm", "gru", "simplernn", "cudnnlstm", "cudnngru")


def _convolution(shape: tuple[int, ...], leaf: str, is_depthwise: bool, n_groups: int) -> tuple[Part, ...] | None:
    layer_type = _CONVOLUTIONS[len(shape)]
    if leaf == "depthwise_kernel" or (leaf in ("kernel", "depthwise_kernel") and is_depthwise):
        # Every input channel has its own outputs: a block of one row.
        *positions, n_in, n_multiples = shape
        return channels_last_kernel(layer_type, (*positions, 1, n_in * n_multiples), n_in)
    if leaf in ("kernel", "pointwise_kernel"):
        n_groups = n_groups if leaf == "kernel" and shape[-1] % n_groups == 0 else 1
        return channels_last_kernel(layer_type, shape, n_groups)
    return None


def _gates(shape: tuple[int, ...], class_names: str) -> tuple[Part, ...] | None:
    names = next((names for word, names in _GATES if word in class_names), None)
    return None if names is None or shape[-1] % len(names) else equal_columns(LayerType.RECURRENT, shape, names)


def _einsum(shape: tuple[int, ...], equation: str) -> tuple[Part, ...] | None:
    """Cut the kernel of an EinsumDense: axes summed over are rows, axes of input and output slices, others columns.

    ``abc,cde->abde``, the query of an attention with d heads, is c x de; ``abcd,cde->abe``, its output, cd x e.
    """
    data, kernel, output = equation_axes(equation)
    if len(kernel) != len(shape):
        return None
    slices = tuple(axis for axis, letter in enumerate(kernel) if letter in data and letter in output)
    rows = tuple(axis for axis, letter in enumerate(kernel) if letter not in output)
    columns = tuple(axis for axis, letter in enumerate(kernel) if letter not in data)
    if not rows or not columns or len({*slices, *rows, *columns}) != len(slices) + len(rows) + len(columns):
        return None
    return (Part(layer_type=LayerType.DENSE, fold=shape, slice_axes=slices, row_axes=rows, column_axes=columns),)
