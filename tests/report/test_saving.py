import re

import pytest

from kdengine import SettingsError
from kdengine.report.curves import draw_curves
from kdengine.report.saving import FONTS, checked_formats, format_of, save_figure


@pytest.fixture
def saved(run_folder, tmp_path):
    """Saves the curves of a run in a format: the content of the file."""
    folder = run_folder("a")

    def save(kind):
        save_figure(draw_curves([folder]), tmp_path / "file", kind)
        return (tmp_path / "file").read_bytes()

    return save


def test_text_stays_text_in_vector_graphics_in_the_fonts_of_the_page(saved):
    svg = saved("svg").decode()
    assert re.search(r"<text[^>]*>Test top-1, %</text>", svg)
    assert set(re.findall(r"font-family: ([^;\"]*)", svg)) <= {FONTS}
    assert "DejaVu" not in svg
    pdf = saved("pdf")
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf
    assert b"/TrueType" in pdf or b"/CIDFontType2" in pdf


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_the_same_figure_gives_the_same_file(saved, kind):
    assert saved(kind) == saved(kind)


def test_formats_are_read_from_the_name_of_a_file_or_a_list():
    assert [format_of(name) for name in ("a.PDF", "b.svg", "c/d.png")] == ["pdf", "svg", "png"]
    assert checked_formats("png, .PDF,png") == ("png", "pdf")
    with pytest.raises(SettingsError, match=r"'a.jpg' is no figure that can be written. Name a file that ends in .pdf"):
        format_of("a.jpg")
    with pytest.raises(SettingsError, match=r"'jpg' is no format of pictures. Name some of png, pdf, svg"):
        checked_formats("png,jpg")
    with pytest.raises(SettingsError, match="No format of pictures is named"):
        checked_formats(" ,")
