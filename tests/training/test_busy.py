import pytest

from kdengine.training import busy


@pytest.mark.parametrize(
    ("threads", "cores", "load", "running", "others"),
    [
        (2, 2, 3.9, 4, 3),  # two others already use both cores
        (2, 2, 3.9, 1, None),  # the load is that of a run which has just ended
        (1, 2, 3.9, 4, None),  # a single thread waits for nobody
        (2, 2, 0.3, 2, None),
        (2, 8, 3.0, 4, None),  # there is room
        (8, 8, 6.0, 9, 6),
    ],
)
def test_threads_that_do_not_fit_beside_others_are_noticed(threads, cores, load, running, others, monkeypatch, tmp_path):
    (tmp_path / "loadavg").write_text(f"{load} 1.00 1.00 {running}/400 12345\n")
    monkeypatch.setattr(busy, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(busy, "cores", lambda: cores)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 1.0, 1.0))
    assert busy.busy_machine(threads) == others


def test_without_proc_the_average_decides(monkeypatch, tmp_path):
    monkeypatch.setattr(busy, "LOAD", tmp_path / "nothing")
    monkeypatch.setattr(busy, "cores", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (5.0, 1.0, 1.0))
    assert busy.busy_machine(2) == 5


def test_where_the_load_is_not_known_nothing_is_said(monkeypatch):
    def unknown():
        raise OSError

    monkeypatch.setattr("os.getloadavg", unknown)
    assert busy.busy_machine(8) is None
