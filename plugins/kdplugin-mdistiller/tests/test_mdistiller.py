"""Files in the tree's form, in tests/tree, run on pairs of any networks; their losses against the formulas."""

import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from kdplugin_mdistiller import load
from torch import nn

from kdengine import KDError, PluginError, Registry, SettingsError, TapError
from kdengine.testing import DistillerContract, built, make_step

TREE = Path(__file__).parent / "tree" / "mdistiller" / "distillers"
HEAD = """
import torch
import torch.nn.functional as F
from torch import nn
from ._base import Distiller
"""
PLAIN = """
class Plain(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)

    def forward_train(self, image, target, **kwargs):
        logits, features = self.student(image)
        return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": logits.mean()}
"""


class TestSoft(DistillerContract):
    method = load(f"{TREE}/Soft.py")


class TestHint(DistillerContract):
    method = load(f"{TREE}/Hint.py")


class TestEarly(DistillerContract):
    method = load(f"{TREE}/Early.py")


class TestWarm(DistillerContract):
    method = load(f"{TREE}/Warm.py")

    def test_processes_keep_the_same(self):
        with pytest.raises(AssertionError, match=r"inner\.seen"):  # a file of the tree knows nothing of processes
            super().test_processes_keep_the_same()


@pytest.fixture
def file(tmp_path):
    """Writes a file of a tree: ``file("body of a class")``."""

    def write(source, name="Mine", folder="distillers", head=HEAD):
        path = tmp_path / folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(source), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def networks_show(leaf):
    """A step of two networks with a stem, two stages and an embedding: ``networks_show(stem=..., stage1=...)``."""

    def make(count=4, student=((2, 8), (3, 8), (4, 4)), teacher=((3, 8), (5, 8), (6, 4)), **step):
        sides = []
        for seed, maps in ((1, student), (10, teacher)):
            shown = {"stem": leaf(count, maps[0][0], maps[0][1], maps[0][1], seed=seed)}
            for number, (channels, size) in enumerate(maps[1:], 1):
                before = leaf(count, channels, size, size, seed=seed + number).detach().requires_grad_()
                shown |= {f"stage{number}": before.relu(), f"stage{number}.pre": before}
            sides.append(shown | {"embedding": leaf(count, maps[-1][0], seed=seed + 7)})
        logits = {"student_logits": leaf(count, 5, seed=21), "teacher_logits": leaf(count, 5, seed=22).detach()}
        sides[1] = {name: tensor.detach() for name, tensor in sides[1].items()}
        return make_step(*sides, **logits, x=torch.rand(count, 3, 8, 8), labels=torch.arange(count) % 5, **step)

    return make


def array(tensor):
    return tensor.detach().double().numpy()


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def cross_entropy(logits, labels):
    return -np.mean([log_softmax(logits)[row, label] for row, label in enumerate(labels)])


def soft(student, teacher, temperature):
    log_q, log_p = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum() / len(student)


def test_logits_of_the_step_reach_the_file_and_its_terms_are_the_formulas(networks_show, slope, agree, gradient):
    step = networks_show()
    terms = built(load(f"{TREE}/Soft.py")(), step)(step)
    s, t, y = array(step.student.logits), array(step.teacher.logits), step.y.numpy()
    assert list(terms) == ["loss_ce", "loss_kd"]
    agree(terms["loss_ce"], 0.1 * cross_entropy(s, y))
    agree(terms["loss_kd"], 0.9 * soft(s, t, 4.0))
    agree(gradient(terms["loss_kd"], step.student.logits), slope(lambda moved: 0.9 * soft(moved, t, 4.0), s))


def test_values_of_cfg_come_from_the_tree_and_the_user_overrides_them(networks_show, agree):
    step = networks_show()
    s, t, y = array(step.student.logits), array(step.teacher.logits), step.y.numpy()
    ways = (
        {"cfg": {"SOFT": {"TEMPERATURE": 2, "LOSS": {"CE_WEIGHT": 0.3}}}},
        {"cfg": {"SOFT.TEMPERATURE": 2, "SOFT.LOSS.CE_WEIGHT": 0.3}},
    )
    for options in ways:
        method = built(load(f"{TREE}/Soft.py")(**options), step)
        agree(method(step)["loss_ce"], 0.3 * cross_entropy(s, y))
        agree(method(step)["loss_kd"], 0.9 * soft(s, t, 2.0))
        assert method.options.cfg == {"SOFT": {"TEMPERATURE": 2, "LOSS": {"CE_WEIGHT": 0.3, "KD_WEIGHT": 0.9}}}


def test_a_value_that_nobody_gives_is_named_with_the_option_that_gives_it(file, networks_show):
    path = file(PLAIN.replace("super()", "self.a = cfg.PLAIN.ALPHA; super()"))
    with pytest.raises(KDError, match=r"reads cfg\.PLAIN, .*-o mdistiller-plain\.cfg\.PLAIN=VALUE"):
        built(load(path)(), networks_show())
    with pytest.raises(KDError, match=r"reads cfg\.PLAIN\.ALPHA.*-o mdistiller-plain\.cfg\.PLAIN\.ALPHA=VALUE"):
        built(load(path)(cfg={"PLAIN": {}}), networks_show())
    built(load(path)(cfg={"PLAIN": {"ALPHA": 1}}), networks_show())


def test_a_value_that_the_file_never_reads_is_refused():
    with pytest.raises(
        SettingsError, match=r"mdistiller-soft\.cfg\.SOFT\.TEMPRATURE: the file reads no such value.*TEMPERATURE"
    ):
        load(f"{TREE}/Soft.py")(cfg={"SOFT": {"TEMPRATURE": 2}})
    with pytest.raises(SettingsError, match=r"cfg\.KEY=VALUE"):
        load(f"{TREE}/Soft.py")(cfg="SOFT")


def test_a_hint_goes_through_the_files_own_connector(networks_show, agree, gradient, slope):
    step = networks_show(student=((2, 8), (3, 8), (4, 4)), teacher=((3, 8), (5, 8), (6, 8)))
    method = built(load(f"{TREE}/Hint.py")(), step)
    regressor = method.inner.conv_reg
    assert regressor.conv.weight.shape == (4, 6, 4, 4), "half the size: a transposed convolution"
    wide = _double(step)
    loss_kd = method.double()(wide)["loss_kd"]
    s, t = array(wide.student["stage2"]), array(wide.teacher["stage2"])
    loss = lambda maps: 100 * np.mean((_regress(regressor, maps) - t) ** 2)  # noqa: E731
    agree(loss_kd, loss(s))
    agree(gradient(loss_kd, wide.student["stage2"]), slope(loss, s))
    assert {name for name, value in method.named_parameters() if value.requires_grad} == {
        f"inner.conv_reg.{name}" for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias")
    }


def _double(step):
    names = list(step.student)
    double = {side: {name: getattr(step, side)[name].double() for name in names} for side in ("student", "teacher")}
    logits = {f"{side}_logits": getattr(step, side).logits.double() for side in ("student", "teacher")}
    return make_step(**double, **logits, x=step.x, labels=step.y)


def _regress(regressor, maps):
    """Transposed convolution with kernel 4, stride 2, padding 1; batch normalisation and ReLU, written out."""
    weight, bias = array(regressor.conv.weight), array(regressor.conv.bias)
    count, _, height, width = maps.shape
    wide = np.zeros((count, weight.shape[1], 2 * height + 2, 2 * width + 2))
    for row, column in np.ndindex(height, width):
        stamp = np.einsum("bi,iokl->bokl", maps[:, :, row, column], weight)
        wide[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    mapped = wide[:, :, 1:-1, 1:-1] + bias[:, None, None]
    mean, var = (f(mapped, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return np.maximum((mapped - mean) / np.sqrt(var + 1e-5), 0)


def test_pre_activations_reach_the_file_and_only_what_it_lists_is_trained(networks_show, agree):
    step = networks_show()
    method = built(load(f"{TREE}/Early.py")(), step)
    terms = method(step)
    expected = 0.0
    for number, connector in enumerate(method.inner.connectors, 1):
        weight, bias = array(connector.weight)[:, :, 0, 0], array(connector.bias)
        s, t = array(step.student[f"stage{number}.pre"]), array(step.teacher[f"stage{number}.pre"])
        mapped = np.einsum("oi,bihw->bohw", weight, s) + bias[:, None, None]
        expected += 0.5 * 2.0 * np.mean((mapped - t) ** 2)
        slopes = np.einsum("oi,bohw->bihw", weight, 2 * (mapped - t) / t.size)
        before = step.student[f"stage{number}.pre"]
        agree(torch.autograd.grad(terms["loss_kd"], before, retain_graph=True)[0], slopes)
    agree(terms["loss_kd"], expected)
    trained = {name for name, value in method.named_parameters() if value.requires_grad}
    assert trained == {f"inner.connectors.{number}.{part}" for number in (0, 1) for part in ("weight", "bias")}
    assert not any(scale.requires_grad for scale in method.inner.scales), "as in the tree, which never lists them"
    assert float(step.student["stage2.pre"].detach().min()) < 0


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
def test_epochs_count_from_one_as_in_the_tree(epoch, share, networks_show, agree, gradient):
    step = networks_show(epoch=epoch, index=torch.tensor([7, 3, 0, 2]))
    method = built(load(f"{TREE}/Warm.py")(), step, num_samples=9)
    weight, bias = array(method.inner.embed.weight), array(method.inner.embed.bias)
    difference = array(step.student["embedding"]) @ weight.T + bias - array(step.teacher["embedding"])
    terms = method(step)
    assert terms["loss_kd"].shape == ()
    agree(terms["loss_kd"], share * np.mean((difference**2).sum(1)))
    agree(gradient(terms["loss_kd"], step.student["embedding"]), share * 2 * difference @ weight / 4)
    assert method.inner.seen.tolist() == [1, 0, 1, 1, 0, 0, 0, 1, 0]
    assert "inner.seen" in method.state_dict()


def test_the_files_cross_entropy_stands_in_for_the_task_loss_or_is_dropped(networks_show):
    step = networks_show()
    kind = load(f"{TREE}/Soft.py")
    assert kind().task_weight == 0
    own = built(kind(ce=False), step)
    assert own.task_weight == 1
    assert list(own(step)) == ["loss_kd"]


def test_without_a_loss_ce_nothing_stands_in_for_the_task_loss(file, networks_show):
    path = file(PLAIN.replace('"loss_ce": F.cross_entropy(logits, target), ', ""))
    with pytest.raises(KDError, match=r"returns loss_kd, and no loss_ce .*-o mdistiller-plain\.ce=false"):
        built(load(path)(), networks_show())
    assert list(built(load(path)(ce=False), networks_show())(networks_show())) == ["loss_kd"]


def test_a_class_that_lists_no_parameters_trains_all_that_it_makes(file, networks_show):
    path = file(PLAIN.replace("teacher)\n", "teacher)\n        self.scale = nn.Linear(5, 5)\n", 1))
    method = built(load(path)(), networks_show())
    assert all(value.requires_grad for value in method.inner.scale.parameters())


def test_parameters_in_a_plain_list_are_trained_where_the_class_lists_them(file, networks_show):
    source = PLAIN.replace("teacher)\n", "teacher)\n        self.scales = [nn.Parameter(torch.ones(3))]\n", 1)
    source += "\n    def get_learnable_parameters(self):\n        return super().get_learnable_parameters() + self.scales\n"
    method = built(load(file(source))(), networks_show())
    assert [value is method.inner.scales[0] for value in method.parameters()] == [True]


def test_inside_no_grad_the_student_gives_no_gradient(file, networks_show):
    source = PLAIN.replace("logits, features = self.student(image)", "logits, _ = self.student(image); frozen = self._f(image)")
    source = source.replace("logits.mean()", "frozen.mean() + 0 * logits.sum()")
    source += "\n    @torch.no_grad()\n    def _f(self, image):\n        return self.student(image)[0]\n"
    step = networks_show()
    terms = built(load(file(source))(), step)(step)
    assert not torch.autograd.grad(terms["loss_kd"], step.student.logits)[0].any()


def test_the_trees_own_base_and_neighbours_are_used_where_they_are(file, networks_show):
    file("class Distiller(nn.Module):\n    marked = True\n    def __init__(self, *both):\n        super().__init__()\n"
         "        self.student, self.teacher = both\n", "_base", head="from torch import nn\n")  # fmt: skip
    file("WEIGHT = 3.0\n", "neighbour", head="")
    file("def half(x):\n    return x / 2\n", "tools", folder="engine", head="")
    source = "from .neighbour import WEIGHT\nfrom ..engine.tools import half\n" + PLAIN.replace(
        "logits.mean()", "half(WEIGHT * logits).mean()"
    )
    step = networks_show()
    method = built(load(file(source))(), step)
    assert method.inner.marked
    assert method(step)["loss_kd"].item() == pytest.approx(1.5 * step.student.logits.mean().item())


def test_the_taps_are_what_the_file_reads():
    taps = {name: load(f"{TREE}/{name}.py").taps for name in ("Soft", "Hint", "Early", "Warm")}
    assert taps == {
        "Soft": ("logits",),
        "Hint": ("logits", "stem", "stages"),
        "Early": ("logits", "stem", "stages", "stages.pre"),
        "Warm": ("logits", "stem", "stages", "embedding"),
    }


REFUSED = {
    "overrides train": ("    def train(self, mode=True):\n        return self\n", "overrides train.*always evaluates"),
    "overrides forward_test": ("    def forward_test(self, image):\n        return image\n", r"overrides forward_test\(\)"),
    "two views": (
        "    def forward_train(self, image_weak, image_strong, target, **kwargs):\n        return None\n",
        "trains on image_weak, image_strong.*plugin of its own",
    ),
    "negatives": (
        "    def forward_train(self, image, target, index, contrastive_index):\n        return None\n",
        "trains on contrastive_index",
    ),
    "constructor": (
        "    def __init__(self, student, teacher, cfg, loader):\n        super().__init__(student, teacher)\n",
        "is made with loader",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_served_is_refused_when_it_is_loaded(fault, file):
    body, message = REFUSED[fault]
    with pytest.raises(PluginError, match=message):
        load(file(PLAIN + "\n" + body))


ASKS = {
    "another view": ("self.student(image.flip(3))", "runs the student on other images"),
    "a module": ("self.teacher.fc", r"reads teacher\.fc"),
    "batch norms": ("self.teacher.get_bn_before_relu()", "reads the batch normalisations of the teacher"),
    "a feature": ("features['attention']", r"reads features\['attention'\]"),
    "maps by another name": ("features['fea' + 'ts']", r"-o mdistiller-plain\.taps=logits,stem,stages"),
    "a bug": (
        "features.nonsense()",
        r"Plain of '.*Mine\.py' failed in forward_train: AttributeError.*the student shows logits \[5\]",
    ),
}


@pytest.mark.parametrize("ask", ASKS)
def test_what_taps_cannot_give_is_refused_before_anything_is_trained(ask, file, networks_show):
    code, message = ASKS[ask]
    path = file(PLAIN.replace("        return logits", f"        {code}\n        return logits"))
    step = networks_show()
    step = make_step(student_logits=step.student.logits, teacher_logits=step.teacher.logits, x=step.x, labels=step.y)
    with pytest.raises(KDError, match=message):
        built(load(path)(), step)


def test_a_pair_that_does_not_fit_is_refused_with_its_shapes(networks_show):
    step = networks_show(student=((2, 8), (3, 8), (4, 3)), teacher=((3, 8), (5, 8), (6, 4)))
    with pytest.raises(TapError, match=r"ConvReg cannot map \[3, 3\] to \[4, 4\]"):
        built(load(f"{TREE}/Hint.py")(), step)
    step = networks_show(student=((2, 8), (4, 4)), teacher=((3, 8), (5, 8)))
    with pytest.raises(
        PluginError, match=r"failed in its constructor: IndexError.*the teacher shows .*feats \[3, 8, 8\] \[5, 8, 8\]"
    ):
        built(load(f"{TREE}/Hint.py")(), step)


def test_unknown_files_and_classes_are_refused_with_the_fix(file, tmp_path):
    registry = Registry()
    ours = "from kdengine import Distiller\nclass Mine(Distiller):\n    name = 'mine'\n    forward = None\n"
    two = file(PLAIN + PLAIN.replace("Plain", "Second"), "two")
    cases = {
        "mdistiller": "mdistiller:PATH/FILE.py",
        "mdistiller:": "mdistiller:PATH/FILE.py",
        "kdplugin-mdistiller": "mdistiller:PATH/FILE.py",
        "mdistiller:DKD": "names no Python file.*mdistiller:PATH/FILE.py",
        f"mdistiller:{tmp_path}/no.py": "There is no file .*no.py",
        f"mdistiller:{file('X = 1', 'none')}": "has no subclass of Distiller",
        f"mdistiller:{file(ours, 'ours', head='')}": "needs no adapter. Write --plugin .*ours.py",
        f"mdistiller:{two}": r"has 2 Distillers. Choose one: mdistiller:.*two\.py:Plain, mdistiller:.*:Second",
        f"mdistiller:{file(PLAIN, 'one')}:Plane": "no Distiller 'Plane'. Choose one: mdistiller:.*one.py:Plain",
        f"mdistiller:{file('import nowhere', 'broken')}": "imports 'nowhere', which is not there. Install it",
        f"mdistiller:{file('import mdistiller.engine', 'absolute')}": "imports 'mdistiller', .* Put the tree on PYTHONPATH",
        f"mdistiller:{file('1 / 0', 'zero')}": "'mdistiller:.*zero.py' failed: ZeroDivisionError",
    }
    for text, message in cases.items():
        with pytest.raises(PluginError, match=message):
            registry.methods(text)
    assert [kind.name for kind in registry.methods(f"mdistiller:{two}:Second")] == ["mdistiller-second"]


def test_what_a_file_shows_is_not_kept_after_the_step(networks_show):
    step = networks_show()
    method = built(load(f"{TREE}/Soft.py")(), step)
    method(step)
    assert method.student.shown is method.teacher.shown is None
    assert isinstance(method.inner.student, nn.Module)


def test_a_run_trains_by_the_files_losses_alone_and_keeps_every_value_it_used(one_step, tmp_path):
    (terms,), student, teacher, y = one_step(
        [f"mdistiller:{TREE}/Soft.py"], mdistiller_soft={"cfg": {"SOFT": {"TEMPERATURE": 2}}}
    )
    s, t = student["logits"], teacher["logits"]
    assert terms == pytest.approx(
        {"mdistiller-soft.loss_ce": 0.1 * cross_entropy(s, y), "mdistiller-soft.loss_kd": 0.9 * soft(s, t, 2.0)}, rel=1e-4
    )
    kept = tomllib.loads((tmp_path / "run" / "run.toml").read_text(encoding="utf-8"))
    assert kept["methods"] == [f"mdistiller:{TREE}/Soft.py"]
    assert kept["options"]["mdistiller-soft"]["cfg"] == {
        "SOFT": {"TEMPERATURE": 2, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}}
    }


def test_what_cannot_be_copied_cannot_be_tried_and_is_refused(file, networks_show):
    path = file(PLAIN.replace("teacher)\n", "teacher)\n        self.kept = nn.Linear(2, 2).weight * 2\n", 1))
    with pytest.raises(PluginError, match="failed in being copied: RuntimeError"):
        built(load(path)(), networks_show())
