"""Reports, all drawn from the one result of a run; no renderer computes a number."""

from pytest_weightwatcher.report.rendering import RENDERERS, render

__all__ = ["RENDERERS", "render"]
