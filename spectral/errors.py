"""Everything the spectral core raises on purpose, under one base class."""

from __future__ import annotations


class SpectralError(Exception):
    """Base class of the errors this package raises on purpose."""


class OptionError(SpectralError, ValueError):
    """An analysis option has an impossible value, or two options contradict each other."""


class ModelError(SpectralError):
    """A model or checkpoint cannot be used as asked; the message names the file and the place."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no checkpoint at the given path."""


class ModelMismatchError(ModelError, ValueError):
    """Two models that should be compared do not have the same architecture, or a part of one is missing."""


class CorruptCheckpointError(ModelError, ValueError):
    """The bytes of a checkpoint contradict its own header, index or format."""


class UnsafeCheckpointError(ModelError, ValueError):
    """Reading the checkpoint would execute code, or would leave its folder."""


class UnsupportedModelError(ModelError, TypeError):
    """The object or file is of a kind that no loader reads."""


class MissingDependencyError(ModelError, ImportError):
    """The format needs a package that is not installed; the message names the extra to install."""
