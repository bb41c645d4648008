"""What goes before a ww.yaml: arguments, markers and options change a configuration, and the rest stays as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_weightwatcher.config import Config


def config_in_force(
    config: Config, *, profile: str | None = None, seed: int | None = None, exclude: tuple[str, ...] = ()
) -> Config:
    """Return a configuration with another profile or seed, and with more layers left out; None leaves it as it is."""
    analysis = {"exclude": tuple(dict.fromkeys((*config.analysis.exclude, *exclude)))}
    changes: dict[str, object] = {
        "analysis": config.analysis.model_copy(update=analysis if seed is None else {**analysis, "seed": seed})
    }
    if profile is not None:
        changes["regression"] = config.regression.model_copy(update={"profile": profile})
    return config.model_copy(update=changes)
