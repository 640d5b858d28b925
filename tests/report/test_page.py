import json
import re
from html.parser import HTMLParser

import pytest

from kdengine.report.grouped import tables_of
from kdengine.report.page import write_page
from kdengine.report.palette import SHADES
from kdengine.report.table import Table

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what a page holds."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data.strip())


@pytest.fixture
def page(tmp_path):
    """Writes a page and reads it again."""

    def write(folders, *tables):
        write_page(tmp_path / "page.html", folders, tables)
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        return text, Reader(text)

    return write


@pytest.fixture
def folders(run_folder):
    return [
        run_folder("plain", method="plain"),
        run_folder("st"),
        run_folder("at", method="at", hint=2, finished=False),
        run_folder("sp", [10.0], method="sp", failed="sp.term = <nan>"),
    ]


def test_the_page_is_well_formed_and_needs_nothing_but_itself(page, folders):
    text, read = page(folders)
    assert "http" not in re.sub(r'<meta http-equiv="Content-Security-Policy"', "", text)
    assert not {"img", "link", "iframe", "object"} & set(read.tags)
    assert all(value.startswith("#") for _, name, value in read.attributes if name in ("src", "href"))
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_every_run_is_on_it_with_what_became_of_it(page, folders):
    text, read = page(folders)
    rows = re.findall(r"<tr>(.*?)</tr>", text.partition("<h2>Learning curves")[0])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert [(row[1], row[-1]) for row in cells if row] == [
        ("plain", "finished"),
        ("teacher", ""),
        ("st", "finished"),
        ("at", "unfinished"),
        ("sp", "failed: sp.term = &lt;nan&gt;"),
    ]
    said = " ".join(read.texts)
    assert f"{folders[2]}, epoch 4: unfinished" in said
    for name in ("resnet32, the teacher", "sp (failed)", "at (unfinished)"):
        assert name in read.texts


def test_what_makes_the_numbers_of_a_run_mean_nothing_is_on_it(page, run_folder):
    bad = run_folder("bad", warnings=["The student is near chance: lower <train.lr>."])
    _, read = page([bad])
    assert "These numbers mean little." in read.texts
    assert f"{bad}: The student is near chance: lower <train.lr>." in read.texts
    assert "These numbers mean little." not in page([run_folder("good")])[0]


def test_a_hostile_name_stays_a_name(page, run_folder):
    evil = "<script>alert(1)</script>"
    text, read = page(
        [run_folder("a", method=evil, data=f"x{evil}"), run_folder("b", method="b", failed=evil, data=f"x{evil}")]
    )
    assert read.tags.count("script") == 1
    assert "<script>alert" not in text
    assert evil in read.texts


def test_curves_and_terms_are_drawn_in_place(page, folders):
    text, read = page(folders)
    assert len(re.findall(r'<svg class="plot"', text)) == 2 + 4
    assert {f"test-s{number}-line" for number in range(4)} <= {value for _, name, value in read.attributes if name == "id"}
    series = [value for tag, name, value in read.attributes if name == "data-series"]
    assert series == ["0", "1", "2", "3"]  # 50, 50, 50 and 10 percent


def test_the_page_says_which_images_chose_the_best_epoch(page, run_folder):
    folder = run_folder("a")
    assert "The best epoch was chosen on the test images, so compare by the last." in page([folder])[0]
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "data": {**result["data"], "validation_images": 5}}))
    assert "The best epoch was chosen on images held out from training." in page([folder])[0]


def test_settings_say_what_all_share_and_what_differs(page, run_folder):
    options = {"st": {"alpha": 0.5, "hard": True}}
    rate = {"train": {"lr": 0.1}}
    folders = [
        run_folder("a", options=options, teacher_input={"size": 64}, **rate),
        run_folder("b", method="plain", seed=4, **rate),
    ]
    text, read = page(folders)
    shared, _, rest = text.partition("<h2>Settings</h2>")[2].partition("<h3>Different</h3>")
    assert "<span>train.lr</span><span>0.1</span>" in shared
    assert "<span>data.fingerprint</span><span>f</span>" in shared
    rows = re.findall(r"<td[^>]*>(.*?)</td><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td>", rest)
    assert ("seed", "0", "st") in rows
    assert ("seed", "4", "plain") in rows
    assert ("teacher", "not set", "plain") in rows
    assert ("teacher_input.size", "64, 64", "st") in rows
    assert "student_input" not in text, "what is left out of an input says nothing"
    assert "alpha = 0.5, hard = true" in text
    assert "<span>device_name</span><span>a machine</span>" in text
    assert "versions.torch" in read.texts


def test_both_colour_schemes_give_every_variable_that_is_used_a_value(page, folders):
    text, _ = page(folders)
    light, dark = re.search(r":root \{ (.*?) \}\n@media \(prefers-color-scheme: dark\) \{ :root \{ (.*?) \} \}", text).groups()
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    for scheme in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+):", scheme))
    assert used <= {shade.name for shade in SHADES}


def test_tables_scroll_in_their_own_boxes_and_plots_shrink(page, folders):
    text, read = page(folders)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert text.count('<div class="scroll"') == text.count("<table")
    assert re.search(r"\.scroll \{ overflow-x: auto;", text)
    assert re.search(r"svg\.plot \{ [^}]*width: 100%; height: auto;", text)
    assert not [pair for pair in read.attributes if pair[:2] == ("svg", "width")]


def test_a_table_of_ones_own_stands_in_place_of_the_default_one(page, run_folder):
    text, read = page(
        [run_folder("a", train={"lr": 0.1}), run_folder("b", train={"lr": 0.5})], Table("Mine.", ("x",), (("y",),))
    )
    assert {"Mine.", "x", "y"} <= set(read.texts)
    assert "parameters" not in read.texts
    assert "different train.lr: 0.1" in text


def test_runs_that_would_mislead_in_one_table_have_two_and_a_warning(page, run_folder):
    text, read = page([run_folder("a"), run_folder("b", data="cifar10", fingerprint="g")])
    assert text.count('<table class="sortable"') == 2
    assert any(piece.startswith("cifar10. ") for piece in read.texts)
    assert "different data" in text


def test_a_comparison_has_a_leaderboard(run_folder, page, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "comparison.json").write_text("{}")
    for seed in (0, 1):
        run_folder(f"all/trial-{seed + 1}/plain", [30.0, 40.0 + seed], method="plain", seed=seed)
        run_folder(f"all/trial-{seed + 1}/st", [30.0, 44.0 + 2 * seed], seed=seed)
    (table,) = tables_of([tmp_path / "all"])
    assert [row[0] for row in table.rows] == ["teacher resnet32", "st", "plain"]
    _, read = page([tmp_path / "all"])
    assert "gain over plain" in read.texts
    assert "Numbers: last test top-1, %, mean of 2 trials. Bands are one standard deviation to each side." in read.texts


def test_the_page_of_another_task_names_its_headline_and_sorts_low_scores_first(page, run_folder, depth):
    text, read = page(
        [run_folder("a", [0.5, 0.25], task=depth), run_folder("b", [0.75], method="at", task=depth, finished=False)]
    )
    assert {"Test RMSE", "Training RMSE", "Learning curves: RMSE", "last RMSE", "0.2500", "0.7500"} <= set(read.texts)
    assert '<th class="number" scope="col" data-first="ascending">last RMSE</th>' in text
    assert text.count('data-first="ascending"') == 2, "of last and best RMSE, and of no other column"
    assert 'aria-label="Test RMSE"' in text
    assert not re.search(r"top-?1|accuracy|top-?5", text, flags=re.IGNORECASE)


def test_a_class_whose_name_is_no_text_is_written_with_escapes(page, folders):
    text, _ = page(folders, Table("Fruit.", ("class",), (("\udce4pfel",),)))
    assert "\\udce4pfel" in text
