"""Weights stored in codes of a few bits: one module for each scheme, all read as what the model computes with."""

from spectral.loaders.quantized.settings import Settings, read_settings
from spectral.loaders.quantized.source import dequantize

__all__ = ["Settings", "dequantize", "read_settings"]
