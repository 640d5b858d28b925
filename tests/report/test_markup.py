import pytest

from kdengine.report.markup import figure, shared_list, table, tag, text


@pytest.mark.parametrize(
    ("value", "said"),
    [("<a&\"b'>", "&lt;a&amp;&quot;b&#x27;&gt;"), (None, "not set"), (True, "true"), ([1, "<"], "1, &lt;"), (0.5, "0.5")],
)
def test_values_become_escaped_text(value, said):
    assert text(value) == said


def test_attributes_are_escaped_and_left_out_when_empty():
    assert tag("p", "<b>x</b>", class_='a"b', data_series="", tabindex="0") == '<p class="a&quot;b" tabindex="0"><b>x</b></p>'


def test_a_table_escapes_every_cell_and_aligns_numbers():
    made = table(("<n>", "top"), [("<i>", "1.00"), ("b", ""), ("c", "+1.2 [0.1, 2.3]")], sortable=True)
    assert '<th class="text" scope="col">&lt;n&gt;</th><th class="number" scope="col">top</th>' in made
    assert '<td class="text">&lt;i&gt;</td><td class="number">1.00</td>' in made
    assert '<table class="sortable">' in made
    assert made.startswith('<div class="scroll"')


def test_the_name_of_a_column_breaks_between_words_only():
    assert ">last top\N{NON-BREAKING HYPHEN}1\N{NO-BREAK SPACE}%</th>" in table(("last top-1 %",), [("1",)])


def test_a_table_that_is_not_to_be_sorted_is_all_text():
    made = table(("n", "v"), [("a", "1"), ("b", "x" * 80)])
    assert "number" not in made
    assert "sortable" not in made
    assert 'class="long"' in made


def test_lists_and_figures_escape_their_texts():
    assert "<span>&lt;a&gt;</span><span>1, 2</span>" in shared_list({"<a>": [1, 2]})
    assert figure("<svg></svg>", "a & b") == "<figure><h3>a &amp; b</h3><svg></svg></figure>"
