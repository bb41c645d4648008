# ruff: noqa: PLR0917  (the signatures are those that scripts call)
"""Methods of the drop-in class that compare two models, or two matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spectral import dropin_names as ww
from spectral.dropin_distances import averages_and_rows
from spectral.dropin_frames import distance_frame
from spectral.dropin_model import HeldModel, without_wrapper
from spectral.errors import OptionError
from spectral.model_distances import cka_similarity
from spectral.model_distances import distances as compare_models

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class ComparisonMethods(HeldModel):
    """Compare weights."""

    def distances(
        self,
        model_1: object,
        model_2: object,
        method: str | None = ww.RAW,
        layers: Any = (),
        start_ids: int = 0,
        pool: bool = True,
        channels: str | None = None,
    ) -> tuple[float, float, pd.DataFrame]:
        """Compare the weights of two models layer by layer.

        Parameters
        ----------
        method : {"raw", "euclidean", "cka"}
            See :func:`spectral.distances`.

        Returns
        -------
        tuple of (float, float, DataFrame)
            Mean of ``delta_W``, mean of ``delta_b``, and a row per layer of the first model. ``delta_b`` is 0 with
            ``b_shape`` "unknown" where a layer has no bias (parity), and NaN where the biases cannot be compared.

        Raises
        ------
        ModelMismatchError
            The models are of different architectures.
        OptionError
            An unknown method or layer.
        """
        word = ww.RAW if method is None else str(method).lower()
        if word not in (ww.RAW, ww.EUCLIDEAN, ww.CKA):
            raise OptionError(f"method must be one of raw, euclidean, cka, got {method!r}")
        given = {"start_ids": start_ids, "pool": pool, "channels": channels}
        # Raw distances are of whole tensors.
        whole = {**given, "pool": pool or word == ww.RAW}
        pair = [
            self._describe({**options, "model": model, "layers": chosen}, alone=True)
            for options in (whole, given)
            for model, chosen in ((model_2, ()), (model_1, layers))
        ]
        found = compare_models(pair[1][1], pair[0][1], method=word)  # type: ignore[arg-type]  # checked above
        (counted, first), second = pair[3], pair[2][1]
        mean_w, mean_b, rows = averages_and_rows(found, first, second, counted.table, keep_all=self.extra_layers)
        return mean_w, mean_b, distance_frame(rows)

    def same_models(self, model_1: object, model_2: object) -> bool:
        """Tell whether two models have the same weights by name and shape (there: are of the same framework)."""
        return _shapes(model_1) == _shapes(model_2)

    def matrix_distance(self, W1: NDArray[Any], W2: NDArray[Any], method: str = ww.EUCLIDEAN) -> float:
        """Return ‖W₁-W₂‖ (raw, euclidean), or the similarity cka.

        Raises
        ------
        OptionError
            Different shapes, or an unknown method; there the result is -1.
        """
        if np.shape(W1) != np.shape(W2):
            raise OptionError(f"the matrices must be of one shape, got {np.shape(W1)} and {np.shape(W2)}")
        if method in (ww.RAW, ww.EUCLIDEAN):
            return float(np.linalg.norm(np.asarray(W1, dtype=np.float64) - np.asarray(W2, dtype=np.float64)))
        if method != ww.CKA:
            raise OptionError(f"method must be one of raw, euclidean, cka, got {method!r}")
        return cka_similarity(np.asarray(W1), np.asarray(W2))


def _shapes(model: object) -> dict[str, tuple[int, ...]]:
    from spectral.loaders.opening import open_model

    return {info.name: info.shape for info in open_model(without_wrapper(model)).tensors()}
