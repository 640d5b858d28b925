import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from kdengine.report.curves import Plot
from kdengine.report.palette import SHADES
from kdengine.report.pastrun import find_runs
from kdengine.report.svg import to_svg


@pytest.fixture
def plot(run_folder):
    return Plot(
        find_runs([run_folder("a", method="<b>&"), run_folder("c", method="plain"), run_folder("d", [1.0, 2.0], seed=1)])
    )


def test_the_element_is_well_formed_and_needs_nothing_from_elsewhere(plot):
    text = to_svg(plot.scores("test"), "test", 'accuracy of "<b>&"')
    root = ElementTree.fromstring(text)
    assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", 'accuracy of "<b>&"')
    assert "http" not in text
    assert "<style" not in text
    assert "width" not in root.attrib


def test_texts_are_texts_in_the_pages_own_font(plot):
    root = ElementTree.fromstring(to_svg(plot.terms(0), "terms", ""))
    texts = ["".join(text.itertext()) for text in root.iter("text")]
    assert "<b>&.term" in texts
    assert all("font-family: inherit" in text.get("style") for text in root.iter("text"))


def test_ids_are_unique_between_figures_and_references_lead_to_them(plot):
    texts = [to_svg(plot.scores(split), split, "") for split in ("test", "train")]
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in texts]
    assert not ids[0] & ids[1]
    for text, known in zip(texts, ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= known
    assert {"test-s0-line", "test-s0-end", "test-s1-line"} <= ids[0]


def test_every_colour_is_a_variable_of_the_page(plot):
    text = to_svg(plot.scores("test"), "test", "")
    used = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", text))
    assert {f"var(--{shade.name})" for shade in SHADES} >= used - {"none"}
    assert {"var(--line-1)", "var(--plain)", "var(--grid)", "var(--muted)"} <= used


def test_the_same_figure_gives_the_same_text_and_changes_no_setting_of_matplotlib(plot):
    before = dict(mpl.rcParams)
    assert to_svg(plot.scores("test"), "a", "") == to_svg(plot.scores("test"), "a", "")
    assert dict(mpl.rcParams) == before
