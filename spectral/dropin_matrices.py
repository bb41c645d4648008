# ruff: noqa: ARG002  (the signatures are those that scripts call)
"""Methods of the drop-in class that give out one layer: its matrices, its eigenvalues, its module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral import dropin_names as ww
from spectral.dropin_layers import keras_layer
from spectral.dropin_model import HeldModel
from spectral.errors import ModelError
from spectral.forms import compute_formed_spectrum, form_matrix
from spectral.randomization import twin_evals
from spectral.spectrum import SpectrumFailure
from spectral.weights import load_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class MatrixMethods(HeldModel):
    """Give out what one layer holds."""

    def get_ESD(
        self,
        model: object = None,
        layer: int | str | None = None,
        random: bool = False,
        params: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the eigenvalues of one layer, ascending, or those of its randomised twins, pooled.

        As there, without the factor √(1/2) that :meth:`analyze` puts on 2-D convolutions.

        Parameters
        ----------
        layer : int or str
            Its id or name.
        params : mapping, optional
            ``conv2d_fft`` and ``inverse`` count.

        Raises
        ------
        OptionError
            There is no such layer; there it is an empty list.
        ModelError
            The layer has no spectrum.
        """
        asked = {name: bool((params or {}).get(name)) for name in ("conv2d_fft", "inverse")}
        description, spec = self._one_layer(model, layer, {"conv2d_norm": False, **asked})
        forms = description.options.forms
        matrix = form_matrix(load_matrix(description.source, spec), forms)
        spectrum = compute_formed_spectrum(matrix, forms)
        if isinstance(spectrum, SpectrumFailure):
            raise ModelError(f"{spec.name}: {spectrum.detail}")
        if not random:
            return spectrum.evals
        twins = twin_evals(matrix, forms, seed=self.seed)
        if isinstance(twins, SpectrumFailure):
            raise ModelError(f"{spec.name}: {twins.detail}")
        return np.sort(np.concatenate(twins))

    def get_Weights(
        self, model: object = None, layer: int | str | None = None, params: Mapping[str, Any] | None = None
    ) -> list[NDArray[Any]]:
        """Return the matrices of one layer: the weight as it is stored, or the slices of a kernel.

        The slices are turned to be tall, or wide for kernels stored as Keras does.

        Raises
        ------
        OptionError
            There is no such layer; there it is an empty list.
        """
        description, spec = self._one_layer(model, layer, {})
        slices = load_matrix(description.source, spec).slices
        if slices.dtype not in (np.float32, np.float64):
            slices = slices.astype(np.float32)
        is_tall = spec.rows >= spec.columns
        turn = (
            bool(spec.part.slice_axes) and (is_tall if spec.kernel_first else not is_tall) and spec.rows != spec.columns
        )
        return [block.T if turn else block for block in slices]

    def get_framework_layer(
        self, model: object = None, layer: int | str | None = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the module of one layer, or its name in a state dict.

        Raises
        ------
        OptionError
            There is no such layer.
        """
        spec = self._one_layer(model, layer, {})[1]
        held: Any = self.model
        framework = self.infer_framework(held)
        if framework == ww.FRAMEWORK.KERAS:
            return keras_layer(held, spec.index)
        path = spec.tensor.rpartition(".")[0]
        return held.get_submodule(path) if framework == ww.FRAMEWORK.PYTORCH else path
