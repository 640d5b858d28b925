import json

import pytest

from kdengine import StorageError
from kdengine.report.benchmarks import cost_columns
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.table import results_table
from kdengine.storage.names import BENCHMARK


def costs(median, batches=(1, 8), **facts):
    def network(scale):
        latency = {str(count): {"median": scale * count, "low": 0.0, "high": 9.0} for count in batches}
        peak = {str(count): 1e6 * count for count in batches}
        return {"name": "net", "parameters": 7, "flops": 2500000 * scale, "peak_bytes": peak, "latency_ms": latency}

    machine = {"device": "cpu", "device_name": "a machine", "threads": 2, "precision": "fp32", "torch": "2", "rounds": 3}
    networks = {"student": network(median), "teacher": network(4 * median)}
    return {**machine, "batches": list(batches), **networks, **facts}


@pytest.fixture
def measured(run_folder):
    """Writes the folder of a run that was benchmarked."""

    def write(name, content, **settings):
        folder = run_folder(name, **settings)
        (folder / BENCHMARK).write_text(json.dumps(content))
        return folder

    return write


def test_a_table_shows_what_was_measured_beside_the_scores(measured, run_folder):
    table = results_table([measured("a", costs(2)), run_folder("b", method="at")])
    assert table.columns[-5:] == ("MFLOPs", "peak MB, batch 1", "peak MB, batch 8", "ms, batch 1", "ms, batch 8")
    teacher, st, at = table.rows
    assert teacher[-5:] == ("20.0", "1.00", "8.00", "8.00", "64.00")
    assert st[-5:] == ("5.0", "1.00", "8.00", "2.00", "16.00")
    assert at[-5:] == ("",) * 5
    assert "a machine (cpu, 2 threads, fp32, torch 2), medians of 3 rounds" in table.caption
    assert table.to_csv().splitlines()[2].endswith("5.0,1.00,8.00,2.00,16.00")


def test_other_sizes_of_batches_have_columns_of_their_own_and_the_state_stays_last(measured, run_folder):
    runs = [measured("a", costs(2)), measured("b", costs(1, (1, 4)), method="at"), run_folder("c", method="sp", finished=False)]
    table = results_table(runs)
    assert table.columns[-4:] == ("ms, batch 1", "ms, batch 4", "ms, batch 8", "state")
    assert [row[-4:] for row in table.rows[1:]] == [
        ("2.00", "", "16.00", "finished"),
        ("1.00", "4.00", "", "finished"),
        ("", "", "", "unfinished"),
    ]


def test_a_leaderboard_shows_them_before_its_note(measured, run_folder):
    folders = [run_folder("plain", method="plain"), measured("a", costs(2)), run_folder("b", [1.0], method="at", failed="no")]
    board = Leaderboard.of(folders)
    table = board.table()
    assert table.columns == (*Leaderboard.of(folders[:1]).columns[:-1], *cost_columns((1, 8)), "note")
    cells = {row[0]: row[-6:] for row in table.rows}
    assert cells["st"] == ("5.0", "1.00", "8.00", "2.00", "16.00", "")
    assert cells["teacher resnet32"] == ("20.0", "1.00", "8.00", "8.00", "64.00", "")
    assert cells["plain"] == ("",) * 6
    assert cells["at"] == (*("",) * 5, "no")
    assert "a machine" in table.caption
    lines = [line.split(",") for line in table.to_csv().splitlines()]
    assert lines[1][-6:] == list(cells["teacher resnet32"])


def test_without_measurements_the_table_is_as_before(run_folder):
    table = results_table([run_folder("a")])
    assert table.columns[-1] == "seconds"
    assert "Latency" not in table.caption


def test_what_a_network_lacks_stays_empty(measured):
    content = costs(2, teacher=None)
    content["student"]["flops"] = None
    teacher, student = results_table([measured("a", content)]).rows
    assert teacher[-5:] == ("",) * 5
    assert student[-5] == ""


@pytest.mark.parametrize(
    "damage", [{"student": {"flops": 3}}, {"batches": 3}, {"threads": None, "device_name": None, "rounds": 2}]
)
def test_a_damaged_file_is_told(damage, measured):
    content = {key: value for key, value in {**costs(2), **damage}.items() if value is not None}
    with pytest.raises(StorageError, match=r"benchmark\.json' is damaged"):
        results_table([measured("a", content)])
