"""The HTML report: one file without any request, drawn from the result."""

from pytest_weightwatcher.report.html.page import render_html

__all__ = ["render_html"]
