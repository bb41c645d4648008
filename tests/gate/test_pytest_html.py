"""Beside pytest-html: a finding comes with the picture of its layer."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree as ET

import pytest

from pytest_weightwatcher.report.html.attachment import standalone_picture
from tests.gate.conftest import MakeModel, flat

pytest.importorskip("pytest_html", reason="not among the oldest requirements")


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["serial", "xdist"])
def test_a_finding_has_its_spectrum(pytester: pytest.Pytester, make_model: MakeModel, workers: tuple[str, ...]) -> None:
    make_model(head=flat())
    result = pytester.runpytest_subprocess(
        *workers, "--ww-model=model.safetensors", "--html=page.html", "--self-contained-html"
    )
    assert result.ret == pytest.ExitCode.OK
    page = (pytester.path / "page.html").read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(set(pictures)) == 1
    picture = ET.fromstring(base64.b64decode(pictures[0]))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "Spectrum of head" in [element.text for element in picture.iter("{http://www.w3.org/2000/svg}title")]


def test_no_name_breaks_a_picture() -> None:
    spectrum = {"evals": [2.0, 1.0], "weights": [1, 1], "before": None, "tail": None, "bulk": None, "permuted": None}
    name = '"><script>alert(1)</script>&\x00'
    picture = ET.fromstring(standalone_picture(name, {**spectrum, "trap_edge": None}))
    assert not list(picture.iter("{http://www.w3.org/2000/svg}script"))
