import pytest
import torch

from kdengine import Distiller, Engine, Phase, Registry, TrainingError, hookimpl
from kdengine.networks.models import ModelSource

FAST = {"data": "digits@train=24@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run folders land in the test's own folder."""
    monkeypatch.chdir(tmp_path)


def network(name="resnet14", seed=5):
    return ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


def fit(plugins, epochs=1, teacher=None, student="resnet8", **settings):
    return Engine(teacher or network(), student, plugins, epochs=epochs, **{**FAST, **settings}).fit()


class Watch:
    """Keeps the student's weights after every epoch, by stage."""

    def __init__(self):
        self.after = {}

    @hookimpl
    def kdengine_before_fit(self, run):
        self.after["begin"] = self._weights(run)

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        self.after[record["phase"]] = self._weights(run)

    def _weights(self, run):
        return {key: value.clone() for key, value in run.lane.student.state_dict().items()}

    def changed(self, one, other):
        return {key for key, value in self.after[one].items() if not torch.equal(value, self.after[other][key])}


@pytest.fixture
def calls():
    """Counts how often modules run: ``calls(teacher.fc, student.fc)`` gives a list of one number each."""

    def count(*modules):
        seen = [0] * len(modules)

        def note(number):
            return lambda *_: seen.__setitem__(number, seen[number] + 1)

        for number, module in enumerate(modules):
            module.register_forward_hook(note(number))
        return seen

    return count


def test_a_hint_stage_trains_what_lies_before_the_hint_and_nothing_else():
    watch = Watch()
    fit(["fitnet"], observers=[watch], weight_decay=0.1)
    changed = watch.changed("begin", "hint")
    assert {key.partition(".")[0] for key in changed} == {"conv1", "bn1", "layer1", "layer2"}
    assert {key.partition(".")[0] for key in watch.changed("hint", "joint")} >= {"layer3", "fc", "conv1"}


def test_in_a_hint_stage_both_forwards_stop_at_the_hint_and_no_accuracy_is_measured(calls):
    teacher, student = network(), network("resnet8")
    seen = calls(teacher.layer2, teacher.layer3, student.layer2, student.layer3)
    during = {}

    class Note:
        @hookimpl
        def kdengine_before_fit(self):
            seen[:] = [0, 0, 0, 0]

        @hookimpl
        def kdengine_after_epoch(self, record):
            during[record["phase"]], seen[:] = list(seen), [0, 0, 0, 0]

    result = fit(["fitnet"], teacher=teacher, student=student, observers=[Note()], fold_teacher=False)
    assert during["hint"] == [3, 0, 3, 0]
    assert during["joint"] == [0, 0, 4, 4], "the teacher is not needed any more; one forward measures the accuracy"
    hint, joint = result.history
    assert "test_top1" not in hint
    assert "train_top1" not in hint
    assert "test_top1" in joint
    assert hint["terms"].keys() == {"fitnet.hint"}
    assert joint["terms"].keys() == {"task"}


@pytest.mark.slow
def test_a_hint_stage_keeps_its_rate_and_the_schedule_is_that_of_the_joint_stage():
    rates = [record["lr"] for record in fit(["fitnet"], epochs=2, options={"fitnet": {"hint_epochs": 2}}).history]
    assert rates[:2] == [0.02, 0.02]
    assert rates[2] > rates[3]


@pytest.mark.slow
def test_each_stage_begins_with_a_fresh_optimizer_unless_it_is_told_not_to():
    fresh, kept = (fit(["fitnet"], reset_optimizer=reset) for reset in (True, False))
    assert fresh.history[0]["terms"] == kept.history[0]["terms"]
    assert fresh.history[1]["terms"] != kept.history[1]["terms"]


class Weighing(Distiller):
    """Wants a quarter of the task loss, and has no say in the gradient."""

    name = "weighing"

    class Options(Distiller.Options):
        share: float = 0.25

    @property
    def task_weight(self):
        return self.options.share

    def forward(self, step):
        return {"nothing": 0.0 * step.student.logits.sum(), "one": torch.ones(()), "half": torch.full((1,), 0.5)}


def first_loss(plugins, **settings):
    """Of a run of one step."""
    return fit(plugins, data="digits@train=8@test=16", **settings).history[0]


@pytest.mark.slow
def test_the_task_weight_is_the_product_of_what_the_methods_want():
    plain = first_loss([])["terms"]["task"]
    assert first_loss([Weighing()])["terms"]["task"] == pytest.approx(plain / 4, rel=1e-6)
    assert first_loss([Weighing(), Weighing(share=0.5)])["terms"]["task"] == pytest.approx(plain / 8, rel=1e-6)
    assert "task" not in first_loss([Weighing(share=0.0)])["terms"], "a loss that counts nothing is not computed"


def test_the_weight_of_a_method_scales_its_terms_and_not_the_task():
    terms = first_loss([Weighing(weight=3.0, share=1.0)])["terms"]
    assert terms["weighing.one"] == 3.0
    assert terms["weighing.half"] == 1.5
    assert terms["task"] == first_loss([])["terms"]["task"]


def test_the_loss_is_the_sum_of_the_terms_and_they_are_means_over_images():
    record = fit(["st", "at"], data="digits@train=12@test=16").history[0]
    assert record["terms"].keys() == {"task", "st.soft", "at.attention"}
    assert record["loss"] == pytest.approx(sum(record["terms"].values()), rel=1e-6)
    counts = []

    class Counts(Distiller):
        name = "counts"

        def forward(self, step):
            counts.append(len(step.y))
            return {"images": torch.full((), float(len(step.y)))}

    record = fit([Counts()], data="digits@train=12@test=16").history[0]
    assert counts == [8, 4]
    assert record["terms"]["counts.images"] == pytest.approx((8 * 8 + 4 * 4) / 12)


def test_two_methods_and_one_method_twice_log_each_term_by_name():
    options = {"fitnet": {"taps": "stage1"}, "fitnet-2": {"taps": "stage2"}, "st": {"alpha": 0.5}}
    result = fit(["fitnet", "st", "fitnet"], options=options)
    assert [(record["phase"], set(record["terms"])) for record in result.history] == [
        ("hint", {"fitnet.hint"}),
        ("hint", {"fitnet-2.hint"}),
        ("joint", {"task", "st.soft"}),
    ]
    assert result.facts["methods"] == ["fitnet", "st", "fitnet-2"]


class Diary(Distiller):
    """Writes down where it is told to be."""

    name = "diary"
    taps = ("stage1", "logits")

    def __init__(self):
        super().__init__()
        self.seen = []
        self.dtypes = set()

    def phases(self):
        return [Phase("early", epochs=0.5), Phase("none", epochs=0)]

    def taps_in(self, phase):
        return ("stage1",) if phase != "joint" else self.taps

    def forward(self, step):
        self.seen.append((step.phase, step.epoch, step.progress))
        traces = [*step.student.keys(), *step.teacher.keys()]
        assert set(traces) == ({"stage1"} if step.phase == "early" else {"stage1", "logits"})
        found = [step.x, *(trace[name] for trace in (step.student, step.teacher) for name in trace)]
        self.dtypes |= {tensor.dtype for tensor in found}
        assert not torch.is_autocast_enabled("cpu")
        assert not any(step.teacher[name].requires_grad for name in step.teacher)
        return {"loss": step.student["stage1"].square().mean()}


@pytest.mark.sample(1)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_method_knows_where_it_is_and_sees_only_float32(precision):
    diary = Diary()
    fit([diary], epochs=2, precision=precision)
    early = [("early", 0, step / 3) for step in range(3)]
    joint = [("joint", step // 3, step / 6) for step in range(6)]
    assert diary.seen == early + joint
    assert diary.dtypes == {torch.float32}


@pytest.mark.slow
def test_the_forwards_of_a_bf16_run_are_bf16_but_accuracy_is_measured_in_fp32():
    student, seen = network("resnet8"), set()
    student.layer3.register_forward_hook(lambda module, args, output: seen.add((module.training, output.dtype)))
    fit([], student=student, precision="bf16")
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(value.dtype in (torch.float32, torch.int64) for value in student.state_dict().values())


class Connected(Distiller):
    """Has connectors of two kinds."""

    name = "connected"
    taps = ("embedding",)

    def build(self, pair):
        here, there = pair.student["embedding"].shape[1], pair.teacher["embedding"].shape[1]
        self.embed = torch.nn.Linear(here, there)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.start = {name: value.detach().clone() for name, value in self.named_parameters()}

    def forward(self, step):
        return {"loss": (self.scale * self.embed(step.student["embedding"]) - step.teacher["embedding"]).square().mean()}


def test_every_connector_is_trained_and_kept_beside_the_student():
    connected = Connected()
    result = fit([connected])
    assert not any(torch.equal(value, connected.start[name]) for name, value in connected.named_parameters())
    student = result.facts["student"]
    assert student["training_parameters"] - student["parameters"] == sum(value.numel() for value in connected.parameters())
    assert (result.folder / "connectors.safetensors").is_file()


def test_frozen_parameters_stay_as_they_are():
    student = network("resnet8")
    student.conv1.weight.requires_grad_(False)
    before = student.conv1.weight.clone()
    fit([], student=student, weight_decay=0.1)
    assert torch.equal(student.conv1.weight, before)
    assert not student.conv1.weight.requires_grad


def test_the_gradient_is_clipped_where_that_is_asked_for():
    tight = fit([], clip_grad=1e-9, weight_decay=0.0, student=(student := network("resnet8")))
    assert tight.student is student
    fresh = network("resnet8")
    pairs = zip(student.parameters(), fresh.parameters(), strict=True)
    moved = max(float((here - there).detach().abs().max()) for here, there in pairs)
    assert 0 < moved < 1e-8


class Silent(Distiller):
    """Wants no task loss and gives none."""

    name = "silent"
    task_weight = 0.0

    def forward(self, step):
        return {}


def test_a_stage_without_any_loss_is_an_error():
    with pytest.raises(TrainingError, match="no loss term"):
        fit([Silent()])


def test_a_loss_that_is_not_finite_stops_the_run_with_term_and_place():
    class Breaking(Distiller):
        name = "breaking"

        def forward(self, step):
            return {"worm": step.student.logits.mean() / (step.progress < 0.5)}

    with pytest.raises(TrainingError, match=r"epoch 2, step 1: .*: breaking.worm = (-?inf|nan)") as caught:
        fit([Breaking()], epochs=2)
    assert "train.lr" in str(caught.value)


def test_best_and_last_are_told_apart():
    result = fit([], epochs=4, lr=0.3)
    tops = [record["test_top1"] for record in result.history]
    student = result.facts["student"]
    assert (student["top1"], student["best_top1"]) == (tops[-1], max(tops))
    assert student["best_epoch"] == 1 + tops.index(max(tops))
    assert student["epochs"] == 4
    assert student["seconds"] > 0


def test_a_batch_of_one_image_that_a_network_cannot_take_is_told_with_the_way_out():
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10))
    with pytest.raises(TrainingError, match=r"batch of one image: .*train.batch_size"):
        fit([], student=student, data="digits@train=9@test=16", drop_last=False)
