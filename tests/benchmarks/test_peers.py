"""The benchmark beside other libraries: its table, and how it speaks with its workers; no other library is needed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peer_workers"


def load(name):
    spec = importlib.util.spec_from_file_location(f"peer_workers_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


client, table, methods = load("client"), load("table"), load("methods")

FAKE = """
import json, sys
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "stop":
        break
    if command["do"] == "prepare":
        known = command["method"] == "st"
        answer = {"terms": {"total": 1.5}} if known else {"error": "missing"}
    elif command["count"] > 2:
        sys.exit("out of memory")
    else:
        answer = {"seconds": [0.25] * command["count"]}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)
    made = client.Worker([sys.executable, tmp_path / "fake.py"], [], tmp_path / "log", alone=True)
    yield made
    made.stop()


def test_a_worker_takes_the_steps_that_it_is_asked_for(worker):
    assert worker.prepare("st", "fp32") == {"total": 1.5}
    assert worker.ready is None
    assert worker.steps(2) == [0.25, 0.25]


def test_a_worker_without_a_method_takes_no_steps(worker):
    assert worker.prepare("vid", "fp32") == {}
    assert worker.ready == "missing"
    assert worker.steps(2) == []


def test_a_worker_that_dies_says_why_and_the_others_go_on(worker):
    worker.prepare("st", "fp32")
    assert worker.steps(3) == []
    assert worker.ready == "the worker died: out of memory"
    assert worker.steps(1) == []
    assert worker.prepare("st", "fp32") == {}


def test_a_server_answers_every_command_and_passes_errors_on(monkeypatch):
    protocol = load("protocol")
    commands = [
        {"do": "prepare", "method": "st", "precision": "fp32"},
        {"do": "steps", "count": 3},
        {"do": "prepare", "method": "broken", "precision": "fp32"},
        {"do": "prepare", "method": "other", "precision": "fp32"},
        {"do": "stop"},
    ]
    answers, taken = [], []

    class Pipes:
        def read(self):
            return commands.pop(0)

        def write(self, **answer):
            answers.append(json.loads(json.dumps(answer)))

    class Loop:
        def step(self):
            taken.append(1)
            return {"total": 2.0}

    def prepare(_, method):
        if method == "broken":
            raise ValueError("no such layer\nand more")
        return Loop() if method == "st" else None

    monkeypatch.setattr(protocol, "Channel", Pipes)
    monkeypatch.setattr(protocol, "Scene", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["worker", "folder"])
    protocol.serve("torch", prepare)
    assert answers[0] == {"terms": {"total": 2.0}}
    assert len(answers[1]["seconds"]) == 3
    assert len(taken) == 4
    assert answers[2:] == [{"error": "ValueError: no such layer"}, {"error": "missing"}]


ROWS = [
    table.Measured(
        "st",
        {"fp32": [0.06, 0.08, 0.07], "default": [0.04, 0.04, 0.04]},
        {"fast": [0.1, 0.1, 0.1], "slow": [0.2, 0.2, 0.2]},
        losses={"kdengine": 2.0, "fast": 2.00001, "slow": 2.0},
    ),
    table.Measured(
        "crd",
        {"fp32": [0.3], "default": [0.2]},
        {"slow": [0.3]},
        {"fast": "ValueError: no memory"},
        {"kdengine": 3.0, "slow": 4.0},
        "other negatives",
    ),
    table.Measured("new", {"fp32": [0.1], "default": []}, {}, {"fast": "missing", "slow": "missing", "kdengine": "KeyError"}),
]


def test_the_table_has_ratios_to_each_peer_and_to_the_fastest():
    peers = ["fast", "slow"]
    lines = "\n".join([table.heading(peers), *(table.lines_of(row, peers) for row in ROWS)]).splitlines()
    assert lines[0] == "| method | precision | kdengine, ms | / fast (ms) | / slow (ms) | / fastest peer |"
    assert lines[2] == "| st | fp32 | 70 | 0.70 (100) | 0.35 (200) | 0.70 |"
    assert lines[3] == "| st | default | 40 | 0.40 (100) | 0.20 (200) | 0.40 |"
    assert lines[4] == "| crd | fp32 | 300 | fails | 1.00 (300) | 1.00 |"
    assert lines[6] == "| new | fp32 | 100 | missing | missing |  |"
    assert lines[7] == "| new | default | fails | missing | missing |  |"


def test_the_summary_names_what_misses_the_goal_and_why_something_did_not_run():
    assert table.summary(ROWS) == [
        "fp32: 1 of 2 methods take at most 0.75 of the fastest peer's step, median 0.85; not crd 1.00.",
        "default: 1 of 2 methods take at most 0.5 of the fastest peer's step, median 0.53; not crd 0.67.",
        "crd does not run in fast: ValueError: no memory",
        "new does not run in kdengine: KeyError",
    ]


def test_losses_are_the_same_number_or_a_note_says_why_not():
    lines = table.agreement(ROWS).splitlines()
    assert lines[2] == "| st | 2 | fast 2.00001, slow 2 | yes |"
    assert lines[3] == "| crd | 3 | slow 4 | no: other negatives |"
    assert len(lines) == 4
    assert table.agreement([table.Measured("st", losses={"kdengine": 1.0, "fast": 2.0})]).endswith("| NO |")


def test_kdengine_offers_every_method_that_is_compared():
    from kdengine import Registry

    registry = Registry()
    for method in methods.METHODS.values():
        assert all(registry.methods(plugin) for plugin in method.plugins)
