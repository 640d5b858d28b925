import pytest

from kdengine.cli.widths import Columns

BOARD = Columns(
    ["method", "trials", "last top-1 %", "best top-1 %", "gain over plain", "top-5 %", "s/epoch", "extra parameters", "note"],
    [
        ["teacher timm:resnet32", "", "99.16", "99.72", "", "100.00", "", "", ""],
        ["rkd", "3", "98.61 ± 0.12", "98.70 ± 0.10", "+1.20 [0.30, 2.10]", "100.00", "3.1", "1,120", ""],
        ["at", "1", "97.00", "97.10", "+0.50 (one trial: no interval)", "99.90", "3.0", "0", "the loss is no longer finite"],
    ],
)


def total(widths):
    return sum(widths) + 2 * (len(widths) - 1)


@pytest.mark.parametrize("width", [64, 80, 100, 120])
def test_a_narrow_table_fits_and_breaks_no_number(width):
    table = BOARD.fitted(width)
    widths = table.widths(width)
    assert total(widths) <= width
    for name, room in zip(table.heads, widths, strict=True):
        assert all(len(cell) <= room for cell in table.column(name) if cell[:1].isdigit() or cell[:1] in "+-")
    assert {"method", "last top-1 %", "gain over plain"} <= set(table.heads)


def test_the_least_important_columns_go_first_notes_move_below_and_remarks_go():
    table = BOARD.fitted(80)
    assert table.heads == ["method", "trials", "last top-1 %", "best top-1 %", "gain over plain", "top-5 %"]
    assert table.below == ["at: the loss is no longer finite"]
    assert table.column("gain over plain")[2] == "+0.50"


def test_a_wide_terminal_shows_all():
    assert BOARD.fitted(200) is BOARD
    assert total(BOARD.widths(200)) < 200


def test_what_must_be_kept_is_kept_even_if_it_does_not_fit():
    grid = Columns(["a"] + [f"st.temperature={value}" for value in range(9)], [["1", *["98.61*"] * 9]])
    table = grid.fitted(80, keep=grid.heads)
    assert table.heads == grid.heads
    assert all(width >= 6 for width in table.widths(80)[1:])


def test_long_texts_share_the_room_that_numbers_leave():
    table = Columns(["name", "n", "meaning"], [["x" * 90, "123456", "word " * 40]])
    widths = table.fitted(80).widths(80)
    assert total(widths) == 80
    assert widths[1] == 6


def test_columns_of_the_same_name_have_widths_of_their_own():
    table = Columns(["where", "", "where", ""], [["layer1", "", "blocks.11", "from tokens"]])
    assert table.widths(80) == [6, 1, 9, 11]
    assert table.fitted(20).heads == ["where", "where", ""]
