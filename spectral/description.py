"""What a model holds and what will be analysed of it, from its headers alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spectral.alignment import align
from spectral.errors import OptionError
from spectral.loaders import open_model
from spectral.options import AnalysisOptions
from spectral.pipeline import MatrixTask
from spectral.preparation import prepare_matrices
from spectral.weights import MatrixSpec, UnanalysedTensor, plan_matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from spectral.adapters import AdapterMode
    from spectral.loaders.protocol import TensorSource
    from spectral.selection import LeftOut
    from spectral.weights import ModelPlan

EXCLUDED_BY_OPTION = "excluded by the options"

IDENTITY_COLUMNS = ("layer_id", "name", "longname", "layer_type", "N", "M", "rf", "Q", "num_evals")
"""Which matrix a row is about."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model holds, from its headers.

    Attributes
    ----------
    source : TensorSource
        Where the tensors come from.
    matrices : tuple of MatrixSpec
        What will be analysed.
    unanalysed : tuple of UnanalysedTensor
        Every other tensor of two or more dimensions, with the reason.
    coverage : float
        Analysed share of the parameters, 0 to 1.
    options : AnalysisOptions
        The options in force.
    """

    source: TensorSource = field(repr=False)
    matrices: tuple[MatrixSpec, ...]
    unanalysed: tuple[UnanalysedTensor, ...]
    coverage: float
    options: AnalysisOptions

    @cached_property
    def details(self) -> pd.DataFrame:
        """One row per matrix: layer_id, name, longname, layer_type, N, M, rf, Q, num_evals."""
        import pandas as pd

        return pd.DataFrame([identity_row(spec) for spec in self.matrices], columns=list(IDENTITY_COLUMNS))

    @cached_property
    def other_tensors(self) -> tuple[str, ...]:
        """Names of the float tensors that no matrix here covers: biases, norms, unanalysed and excluded ones."""
        # A tensor with a part left out is read as a whole, too.
        analysed = {spec.tensor for spec in self.matrices} - {tensor.name for tensor in self.unanalysed}
        return tuple(info.name for info in self.source.tensors() if info.refusal is None and info.name not in analysed)

    def tasks(self) -> tuple[MatrixTask, ...]:
        """Return one task per matrix."""
        return tuple(MatrixTask(source=self.source, spec=spec, options=self.options) for spec in self.matrices)


def describe(
    model: object,
    options: AnalysisOptions | None = None,
    *,
    base_model: object = None,
    peft: AdapterMode | None = None,
    **changes: Any,
) -> Description:
    """List what :func:`analyze` would analyse, from headers alone.

    Parameters and errors are those of :func:`analyze`.

    Returns
    -------
    Description
        ``.details`` (a DataFrame), ``.matrices``, ``.unanalysed``, ``.coverage``.
    """
    if not isinstance(options, (AnalysisOptions, type(None))):
        raise OptionError(f"options must be AnalysisOptions, got {options!r}")
    options = (options or AnalysisOptions()).changed(changes)
    source = _open(model, base_model, peft)
    return describe_plan(source, plan_matrices(source.tensors()), options)


def _open(model: object, base_model: object, peft: AdapterMode | None) -> TensorSource:
    if peft is not None:
        from spectral.adapters import adapter_source

        return adapter_source(model, base_model, mode=peft)
    if base_model is not None:
        from spectral.deltas import delta_source

        return delta_source(model, base_model)
    return open_model(model)


def describe_as(description: Description, original: Mapping[str, tuple[int, ...]]) -> Description:
    """Return the description of a model with its tensors named and laid out as those of another.

    Parameters
    ----------
    description : Description
        The model.
    original : mapping of str to tuple of int
        Tensors of the other -> their shapes; see :func:`spectral.alignment.align`.
    """
    source = align(description.source, original)
    if source is description.source:
        return description
    return describe_plan(source, plan_matrices(source.tensors()), description.options)


def describe_plan(source: TensorSource, plan: ModelPlan, options: AnalysisOptions) -> Description:
    """Return the description of a model whose plan is made already, for callers with a plan of their own.

    Parameters
    ----------
    source : TensorSource
        Where the tensors of the plan come from.
    plan : ModelPlan
        Which matrices there are. Their ``index`` is what the filters and the details call ``layer_id``.
    options : AnalysisOptions
        The options in force.

    Raises
    ------
    OptionError
        A filter matches no layer, or there are too few to stack or multiply.
    """
    included, left_out = _exclude(plan.matrices, options.exclude)
    n_by_choice = sum(spec.part.n_values for spec in plan.matrices) - sum(spec.part.n_values for spec in included)
    prepared = prepare_matrices(source, included, options.selection, options.forms, seed=options.seed)
    n_by_choice += _n_values(entry for entry in prepared.left_out if entry.by_choice)
    n_wanted = plan.n_parameters - n_by_choice
    not_analysed = [*(entry for entry in prepared.left_out if not entry.by_choice), *prepared.without_product]
    n_analysed = plan.n_analysed - n_by_choice - _n_values(not_analysed)
    return Description(
        source=prepared.source,
        matrices=prepared.specs,
        unanalysed=(*plan.unanalysed, *left_out, *_listed((*prepared.left_out, *prepared.without_product))),
        # What the user left out on purpose is no gap in coverage.
        coverage=n_analysed / n_wanted if n_wanted else 0.0,
        options=options,
    )


def _exclude(specs: Iterable[MatrixSpec], patterns: tuple[str, ...]) -> tuple[list[MatrixSpec], list[UnanalysedTensor]]:
    included: list[MatrixSpec] = []
    left_out: list[UnanalysedTensor] = []
    for spec in specs:
        if any(fnmatchcase(spec.name, pattern) for pattern in patterns):
            left_out.append(
                UnanalysedTensor(
                    name=spec.tensor,
                    shape=spec.shape,
                    dtype=spec.dtype,
                    reason=EXCLUDED_BY_OPTION,
                    part=spec.part.name,
                    layer=spec.name,
                )
            )
        else:
            included.append(spec)
    return included, left_out


def _n_values(entries: Iterable[LeftOut]) -> int:
    """Count the values behind matrices that are not analysed; slices of one kernel count as their share."""
    return sum(entry.spec.rows * entry.spec.columns * entry.spec.n_slices for entry in entries)


def _listed(entries: Iterable[LeftOut]) -> tuple[UnanalysedTensor, ...]:
    """One record per tensor part and reason, however many slices of it are left out."""
    return tuple(dict.fromkeys(entry.as_unanalysed() for entry in entries))


def identity_row(spec: MatrixSpec) -> dict[str, Any]:
    """Return the columns that say which matrix a row is about."""
    return {
        "layer_id": spec.index,
        "name": spec.name.rpartition(".")[2],
        "longname": spec.name,
        "layer_type": spec.layer_type.value,
        "N": spec.N,
        "M": spec.M,
        "rf": spec.rf,
        "Q": spec.Q,
        "num_evals": spec.n_evals,
        **({} if spec.slice_id is None else {"slice_id": spec.slice_id}),
    }
