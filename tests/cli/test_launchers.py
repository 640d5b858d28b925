import json

import pytest

SMALL = ["--data", "digits@train=16@test=16", "--epochs", "1", "-o", "train.batch_size=8", "-o", "train.precision=fp32"]
PAIR = ["--teacher", "cnn2", "--student", "cnn2", "--device", "cpu"]
LOCAL = ["--on", "local", "-o", "local.workers=2", "-o", "local.threads=1"]


def test_a_dry_run_shows_the_units_and_leaves_no_trace(kdengine, here):
    found = kdengine("compare", "--methods", "st,fitnet", *PAIR, *SMALL, *LOCAL, "--trials", "2", "--dry-run", "--json").json
    assert [(unit["unit"], unit["lanes"], unit["threads"], unit["gpus"]) for unit in found["units"]] == [
        ("trial-1", ["plain", "st", "fitnet"], 1, 0),
        ("trial-2", ["plain", "st", "fitnet"], 1, 0),
    ]
    assert all(unit["memory"] > 0 for unit in found["units"])
    said = kdengine("compare", "--methods", "st", *PAIR, *SMALL, *LOCAL, "-o", "local.lanes=1", "--dry-run")
    rows = [line.split()[:4] for line in said.out.splitlines() if line.startswith("trial-")]
    assert sorted(rows) == [["trial-1-part-1", "plain", "0", "1"], ["trial-1-part-2", "st", "1", "1"]]
    assert "2 units by the launcher 'local', in 1 of which the teacher runs" in said.out
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--on", "lokal"], "There is no launcher 'lokal'. Did you mean 'local'?"),
        (["--on", "local", "-o", "local.worker=2"], "There is no option 'local.worker'. Did you mean 'workers'"),
        (["--on", "local", "-o", "local.workers=0"], "local.workers = 0: it must be greater than or equal to 1"),
        (["-o", "nonsense=1"], "There is no setting 'nonsense'"),
        (
            ["-o", "local.workers=2"],
            "No lane uses the options of local. Remove them, or add such a lane; those of a launcher need",
        ),
    ],
)
def test_what_cannot_be_launched_is_refused(kdengine, here, flags, fault):
    said = kdengine("compare", "--methods", "st", *PAIR, *SMALL, *flags)
    assert said.code == 2
    assert fault in " ".join(said.err.split())
    assert list(here.iterdir()) == []


def test_launchers_are_listed_and_shown_with_their_options(kdengine):
    assert "Launchers, for --on: local" in kdengine("plugins").out
    said = kdengine("plugins", "show", "local")
    assert "local (launcher): Processes on this machine" in said.out
    assert "-o local.workers=" in said.out
    shown = kdengine("plugins", "show", "ray", "--json").json
    assert shown["options"]["gpus_per_lane"]["default"] is None
    plugins = {plugin["name"]: plugin for plugin in kdengine("plugins", "--json").json["plugins"]}
    assert [launcher["name"] for launcher in plugins["slurm"]["launchers"]] == ["slurm"]


def test_a_setting_without_a_table_counts_with_and_without_a_launcher(kdengine, here):
    for flags in ([], LOCAL):
        said = kdengine("compare", "--methods", "st", *PAIR, *SMALL, *flags, "-o", "seed=-1", "--dry-run")
        assert said.code == 2, said.out
        assert "seed" in said.err


@pytest.mark.slow
def test_a_sweep_and_probes_of_learning_rates_are_carried_too(kdengine, here):
    grid = ["sweep", "--plugin", "st", "--grid", "st.alpha=0.1,0.9", *PAIR, *SMALL]
    launched, alone = kdengine(*grid, *LOCAL, "--out", "launched", "--json"), kdengine(*grid, "--out", "alone", "--json")
    assert launched.code == 0, launched.err
    scores = [{row["method"]: row["top1"] for row in said.json["cells"]} for said in (launched, alone)]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 3
    probing = ["compare", "--methods", "st", *PAIR, *SMALL, "--data", "digits@train=256@test=16", "--tune-lr", "1e-9,0.02"]
    said = kdengine(*probing, *LOCAL, "--out", "probed")
    assert said.code == 0, said.err
    assert json.loads((here / "probed" / "comparison.json").read_text())["tuned"]["lr"] == 0.02
    assert not (here / "probed" / "units").exists()
    assert (here / "probed" / "trial-1" / "st" / "result.json").exists()
