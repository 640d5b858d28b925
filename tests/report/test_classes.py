from kdengine.report.classes import MANY, class_section
from kdengine.report.page import write_page
from kdengine.report.pastrun import PastRun
from kdengine.storage.confusion import ConfusionMatrix

PETS = ConfusionMatrix(("cat", "<dog>", "fox"), [[30, 10, 0], [0, 5, 0], [0, 0, 0]])


def section(folder):
    return class_section(PastRun.read(folder))


def test_the_page_of_one_run_shows_its_classes_once_they_were_counted(run_folder, tmp_path):
    run = run_folder("a")
    assert section(run) == ""
    PETS.keep(run, "last")
    write_page(tmp_path / "one.html", [run])
    page = (tmp_path / "one.html").read_text()
    assert section(run) in page
    assert "<dog>" not in page
    write_page(tmp_path / "two.html", [run, run_folder("b", method="at")])
    assert "Confusion" not in (tmp_path / "two.html").read_text()


def test_rows_are_in_percent_of_their_class(run_folder):
    run = run_folder("a")
    PETS.keep(run, "best")
    shown = section(run)
    assert "weights: best" in shown
    for cell in (">75<", ">25<", "75.00", "100.00"):
        assert cell in shown
    assert shown.count("<td></td>") == 6


def test_of_many_classes_the_most_frequent_mistakes_are_listed(run_folder):
    run, count = run_folder("a"), MANY + 1
    counts = [
        [5 * (row == column) + (7 + row) * (column == (row + 1) % count) for column in range(count)] for row in range(count)
    ]
    ConfusionMatrix([f"c{number}" for number in range(count)], counts).keep(run, "last")
    shown = section(run)
    assert "heat" not in shown
    assert f"The {count} most frequent mistakes" in shown
    assert shown.index(f">{7 + count - 1}<") < shown.rindex(">7<")
