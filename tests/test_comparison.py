import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdengine import Comparison, Distiller, Engine, KDError, PluginError, Registry, SettingsError, hookimpl
from kdengine.config.settings import Settings
from kdengine.networks.models import ModelSource
from kdengine.report.leaderboard import Leaderboard
from kdengine.runs.lane_specs import LaneSpec
from kdengine.storage.runfolder import RunFolder
from kdengine.training.memory import COPIES, CROWDED

FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 2}
DATA = "digits@train=24@test=16"
TIMES = ("seconds", "images_per_second")


def network(name, seed=5):
    return ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


class Breaking(Distiller):
    """Turns NaN in its fifth step."""

    name = "breaking"
    steps = 0

    def forward(self, step):
        self.steps += 1
        return {"worm": step.student.logits.mean() * (torch.nan if self.steps == 5 else 1)}


class Drawn(Distiller):
    """Pulls the logits together; of no plugin."""

    name = "drawn"

    class Options(Distiller.Options):
        pull: float = 1.0

    def forward(self, step):
        return {"pull": self.options.pull * (step.student.logits - step.teacher.logits).square().mean()}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "out"
    comparison = Comparison(
        network("resnet14"),
        "resnet8",
        {"st": ["st"], "fitnet+st": ["fitnet", "st"], "takd": ["takd"], "broken": [Breaking()]},
        DATA,
        trials=2,
        out=folder,
        options={"st": {"alpha": 0.5}},
        **FAST,
    )
    return comparison.fit(), folder


def test_every_method_has_a_folder_a_trial_and_the_plain_student_is_among_them(compared):
    board, folder = compared
    labels = {"plain", "st", "fitnet+st", "takd", "broken"}
    assert {row["method"] for row in board.rows} == labels
    for trial in (1, 2):
        assert {path.name for path in (folder / f"trial-{trial}").iterdir()} == labels
    assert {row["method"]: row["epochs"] for row in board.rows} == {
        "plain": 2,
        "st": 2,
        "fitnet+st": 3,
        "takd": 4,
        "broken": None,
    }


def test_the_numbers_of_the_table_are_those_of_the_metrics(compared):
    board, folder = compared
    for row in board.rows:
        if row["method"] == "broken":
            continue
        found = [rows(folder / f"trial-{trial}" / row["method"]) for trial in (1, 2)]
        students = [[line for line in lines if line.get("chain_step", 2) == 2 and "test_top1" in line] for lines in found]
        assert row["top1"] == pytest.approx(sum(lines[-1]["test_top1"] for lines in students) / 2)
        assert row["best_top1"] == pytest.approx(sum(max(line["test_top1"] for line in lines) for lines in students) / 2)


def test_a_lane_that_fails_is_a_row_with_its_reason_and_keeps_what_it_had(compared):
    board, folder = compared
    broken = next(row for row in board.rows if row["method"] == "broken")
    assert "breaking.worm = nan" in broken["failure"]
    assert broken["trials"] == 0
    assert len(rows(folder / "trial-1" / "broken")) == 1


def test_all_lanes_of_a_trial_begin_alike_and_trials_differ(compared):
    _, folder = compared
    seeds = {RunFolder(path).settings().seed for path in (folder / "trial-2").iterdir()}
    assert seeds == {1}
    one, other = (load_file(folder / f"trial-{trial}" / "plain" / "student.safetensors") for trial in (1, 2))
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.sample(2)
@pytest.mark.parametrize("label", ["plain", "st", "fitnet+st", "takd"])
def test_a_lane_is_bit_identical_to_the_same_run_alone(label, compared, tmp_path):
    _, folder = compared
    lane = folder / "trial-2" / label
    settings = RunFolder(lane).settings()
    teacher = network("resnet14") if label != "plain" else None
    plugins = {"plain": [], "fitnet+st": ["fitnet", "st"]}.get(label, [label])
    Engine(teacher, "resnet8", plugins, DATA, seed=1, options=settings.options, out=tmp_path / "alone", **FAST).fit()
    alone = [{**row, "lane": label} for row in rows(tmp_path / "alone")]
    assert alone == rows(lane)
    weights = [load_file(place / "student.safetensors") for place in (lane, tmp_path / "alone")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.slow
def test_a_lanes_settings_repeat_it_alone_with_the_same_teacher(tmp_path):
    settings = {"data": DATA, "trials": 2, "out": tmp_path / "out", **FAST, "epochs": 1}
    Comparison("resnet14", "resnet8", ["st"], **settings).fit()
    lane = tmp_path / "out" / "trial-2" / "st"
    Engine.of(RunFolder(lane).settings(), tmp_path / "alone").fit()
    assert rows(tmp_path / "alone") == rows(lane)


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 8])
def test_an_interrupted_comparison_is_readable_and_goes_on_to_the_same_end(after, tmp_path, interrupt):
    """Stopped between two lanes of the first trial, and between two trials; the teacher comes from the cache."""

    def comparison(folder, *observers):
        settings = {"data": DATA, "trials": 2, "out": tmp_path / folder, **FAST, "teacher_train": {"epochs": 1}}
        return Comparison("resnet14", "resnet8", ["st", "fitnet"], observers=observers, **settings)

    whole = comparison("whole").fit()
    with pytest.raises(KeyboardInterrupt):
        comparison("part", interrupt(after)).fit()
    assert any("not finished" in row["failure"] for row in Leaderboard.of([tmp_path / "part"]).rows)
    board = Comparison.resume(tmp_path / "part").fit()
    keys = ("method", "top1", "best_top1", "gain", "epochs", "failure")
    assert [[row[key] for key in keys] for row in board.rows] == [[row[key] for key in keys] for row in whole.rows]


class Crash:
    """Fails between the saves of two lanes, in the middle of an epoch."""

    @hookimpl(trylast=True)
    def kdengine_after_step(self, run, done):
        if (run.settings.teacher, run.lane.name, len(run.lane.history), done) == ("resnet14", "st", 1, 2):
            raise RuntimeError("a cable")


@pytest.mark.slow
def test_lanes_that_were_saved_at_different_steps_meet_again_and_end_as_if_nothing_had_happened(tmp_path):
    settings = {**FAST, "save_minutes": 1e-9, "teacher_train": {"epochs": 1}}

    def comparison(folder, *observers):
        return Comparison("resnet14", "resnet8", ["st", "rkd"], DATA, out=tmp_path / folder, observers=observers, **settings)

    comparison("whole").fit()
    with pytest.raises(RuntimeError, match="a cable"):
        comparison("part", Crash()).fit()
    lanes = {label: RunFolder(tmp_path / "part" / "trial-1" / label) for label in ("plain", "st", "rkd")}
    assert [lane.load_state()["meter"]["steps"] for lane in lanes.values()] == [2, 2, 1]
    Comparison.resume(tmp_path / "part").fit()
    for label, lane in lanes.items():
        whole = tmp_path / "whole" / "trial-1" / label
        assert rows(lane.path) == rows(whole)
        assert (lane.path / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert not (tmp_path / "part" / "state").exists()


def test_a_comparison_goes_on_with_what_decides_no_number_otherwise_and_with_nothing_else(tmp_path, interrupt):
    settings = {"data": "digits@train=8@test=16", "out": tmp_path / "part", **FAST, "teacher_train": {"epochs": 1}}
    with pytest.raises(KeyboardInterrupt):
        Comparison("resnet14", "resnet8", ["st"], observers=[interrupt(2)], **settings).fit()
    for override in (False, True):
        with pytest.raises(SettingsError, match=r"train.lr is 0.02, got 0.5.* trained with the same settings"):
            Comparison.resume(tmp_path / "part", changes={"train": {"lr": 0.5}}, override=override)
    changes = {"train": {"save_minutes": 3, "lr": 0.02}}
    board = Comparison.resume(tmp_path / "part", changes=changes, at_once=1).fit()
    assert [row["failure"] for row in board.rows] == ["", ""]


@pytest.mark.slow
def test_methods_that_came_as_objects_go_on_with_their_options(tmp_path, interrupt):
    from kdplugin_rkd import RKD

    settings = {"data": "digits@train=16@test=16", **FAST, "teacher_train": {"epochs": 1}}

    def comparison(folder, *observers):
        methods = {"hard": [RKD(angle=0.0, distance=7.0)], "own": [Drawn(pull=2.0)]}
        return Comparison("resnet14", "resnet8", methods, out=tmp_path / folder, observers=observers, **settings)

    comparison("whole").fit()
    with pytest.raises(KeyboardInterrupt):
        comparison("part", interrupt(3)).fit()
    for again, error, said in [
        ((), PluginError, r"no plugin 'drawn'.*again: Comparison\.resume\(FOLDER, methods=\[\.\.\.\]\)"),
        ({"own": [Drawn()]}, SettingsError, r"drawn\.pull is 2\.0, got 1\.0"),
        ({"own": [RKD()]}, SettingsError, "its methods are drawn, got rkd"),
        ([Drawn(pull=2.0)], SettingsError, "it has no lane drawn, but plain, hard, own"),
    ]:
        with pytest.raises(error, match=said):
            Comparison.resume(tmp_path / "part", methods=again)
    Comparison.resume(tmp_path / "part", methods={"own": [Drawn(pull=2.0)]}).fit()
    own = [tmp_path / folder / "trial-1" / "own" for folder in ("whole", "part")]
    assert rows(own[0]) == rows(own[1])
    hard = [tmp_path / folder / "trial-1" / "hard" for folder in ("whole", "part")]
    assert rows(hard[0]) == rows(hard[1])
    assert RunFolder(hard[1]).settings().options["rkd"]["distance"] == 7.0


def test_a_method_that_fails_while_it_is_built_or_shipped_is_a_row_too(tmp_path):
    class Unbuilt(Distiller):
        name = "unbuilt"

        def build(self, pair):
            raise ZeroDivisionError("no plan")

        def forward(self, step):
            return {"loss": step.student.logits.mean()}

    class Unshipped(Distiller):
        name = "unshipped"

        def deploy(self, student):
            raise ZeroDivisionError("no ship")

        def forward(self, step):
            return {"loss": step.student.logits.square().mean()}

    methods = {"unbuilt": [Unbuilt()], "unshipped": [Unshipped()]}
    settings = {**FAST, "epochs": 1, "out": tmp_path / "out"}
    board = Comparison(network("resnet14"), "resnet8", methods, "digits@train=8@test=16", **settings).fit()
    notes = {row["method"]: row["failure"] for row in board.rows}
    assert "no plan" in notes["unbuilt"]
    assert "no ship" in notes["unshipped"]
    assert notes["plain"] == ""


def test_a_network_that_cannot_be_measured_is_a_row_too(tmp_path):
    class Mute(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError("no words")

    class Silenced(Distiller):
        name = "silenced"

        def deploy(self, student):
            return Mute()

        def forward(self, step):
            return {"loss": step.student.logits.square().mean()}

    settings = {**FAST, "epochs": 1, "out": tmp_path / "out"}
    board = Comparison(network("resnet14"), "resnet8", {"silenced": [Silenced()]}, "digits@train=8@test=16", **settings).fit()
    notes = {row["method"]: row["failure"] for row in board.rows}
    assert "no words" in notes["silenced"]
    assert notes["plain"] == ""


def test_a_lane_weighs_and_smooths_labels_as_its_own_settings_say(tmp_path):
    smooth = {"label_smoothing": 0.4}
    lanes = [LaneSpec("hard", []), LaneSpec("soft", [], train=smooth)]
    settings = {**FAST, "epochs": 1}
    Comparison(None, network("resnet8"), lanes, DATA, out=tmp_path / "out", **settings).fit()
    hard, soft = (rows(tmp_path / "out" / "trial-1" / name)[0]["loss"] for name in ("hard", "soft"))
    assert hard != soft
    alone = Engine(None, network("resnet8"), [], data=DATA, out=tmp_path / "alone", **settings, **smooth).fit()
    assert alone.history[0]["loss"] == soft
    with pytest.raises(SettingsError, match="fold_teacher"):
        Comparison(None, network("resnet8"), [LaneSpec("own", [], train={"fold_teacher": False})], DATA, **settings).fit()


def test_a_lane_that_reads_no_teacher_resumes_though_others_have_had_theirs_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("KDENGINE_CACHE", str(tmp_path / "cache"))
    settings = {**FAST, "epochs": 1, "out": tmp_path / "out", "at_once": 1}
    Comparison("resnet14", "resnet8", ["dml"], DATA, **settings).fit()
    manifest = RunFolder(tmp_path / "out" / "trial-1" / "dml").manifest()
    assert manifest.get("teacher") is None


class Company:
    """Which lanes step side by side."""

    def __init__(self):
        self.passes = []

    @hookimpl
    def kdengine_before_fit(self, run):
        if not self.passes or run.lane.name in self.passes[-1] or self.done:
            self.passes.append([])
        self.passes[-1].append(run.lane.name)
        self.done = False

    @hookimpl
    def kdengine_after_fit(self):
        self.done = True


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["at_once", "memory"])
def test_lanes_for_which_there_is_no_room_follow_in_another_pass_with_the_same_numbers(limit, tmp_path, monkeypatch):
    def compared(name, **given):
        company = Company()
        settings = {"data": DATA, "out": tmp_path / name, "observers": [company], **FAST, "epochs": 1, **given}
        return Comparison(network("resnet14"), "resnet8", ["st", "at", "sp"], **settings).fit(), company.passes

    together, one = compared("together")
    if limit == "memory":
        monkeypatch.setattr("kdengine.runs.lane_runs.free_bytes", lambda device: 1.1 * bytes_of_resnet8() / CROWDED)
    apart, two = compared("apart", **({"at_once": 2} if limit == "at_once" else {}))
    assert one == [["plain", "st", "at", "sp"]]
    assert two == [["plain", "st"], ["at", "sp"]]
    keys = ("method", "top1", "top5", "gain", "parameters")
    assert [[row.get(key) for key in keys] for row in apart.rows] == [[row.get(key) for key in keys] for row in together.rows]
    for label in ("plain", "at"):
        assert rows(tmp_path / "apart" / "trial-1" / label) == rows(tmp_path / "together" / "trial-1" / label)


def bytes_of_resnet8():
    return COPIES * sum(tensor.numel() * tensor.element_size() for tensor in network("resnet8").state_dict().values())


def test_mistakes_are_told_before_anything_is_written(tmp_path):
    def compare(methods, **settings):
        return Comparison(network("resnet14"), "resnet8", methods, DATA, out=tmp_path / "out", **{**FAST, **settings})

    for methods, settings, said in (
        (["rdk"], {}, "rkd"),
        (["st"], {"options": {"rkd": {"angle": 1.0}}}, "No lane uses the options of rkd"),
        (["st"], {"options": {"st": {"alpah": 1.0}}}, "alpha"),
        ([LaneSpec("st", ["st"]), LaneSpec("st", ["rkd"])], {}, "Several lanes are called st"),
        (["st"], {"trials": 0}, "trials = 0"),
    ):
        with pytest.raises(KDError, match=said):
            compare(methods, **settings).fit()
    assert not (tmp_path / "out").exists()


def test_a_method_that_does_not_fit_the_pair_is_a_row_and_the_others_go_on(tmp_path):
    options = {"fitnet": {"taps": "embedding"}}
    settings = {**FAST, "epochs": 1, "options": options, "out": tmp_path / "out"}
    board = Comparison(network("resnet14"), "resnet8", ["fitnet", "st"], DATA, **settings).fit()
    notes = {row["method"]: row["failure"] for row in board.rows}
    assert "maps [B, C, H, W]" in notes["fitnet"]
    assert notes["st"] == notes["plain"] == ""


def test_a_folder_that_holds_a_comparison_or_none_is_told(tmp_path):
    settings = {**FAST, "epochs": 1, "out": tmp_path / "out"}
    Comparison(network("resnet14"), "resnet8", ["st"], "digits@train=8@test=16", **settings).fit()
    with pytest.raises(SettingsError, match="--resume"):
        Comparison(network("resnet14"), "resnet8", ["st"], "digits@train=8@test=16", **settings).fit()
    with pytest.raises(SettingsError, match="no comparison"):
        Comparison.resume(tmp_path)


def test_settings_of_a_comparison_can_be_given_whole(tmp_path):
    from kdengine.runs.lane_specs import LaneSpec

    train = {**FAST, "epochs": 1}
    settings = Settings.checked({"student": "resnet8", "teacher": "resnet8", "data": "digits@train=8@test=16", "train": train})
    entries = [LaneSpec("hot", ["st"], {"st": {"temperature": 8.0}}), LaneSpec("cold", ["st"], {"st": {"temperature": 1.0}})]
    Comparison.of(settings, entries, out=tmp_path / "out").fit()
    temperatures = {
        label: RunFolder(tmp_path / "out" / "trial-1" / label).settings().options["st"]["temperature"]
        for label in ("hot", "cold")
    }
    assert temperatures == {"hot": 8.0, "cold": 1.0}
