import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kdplugin_dml import DML, mimicry_loss
from torch import nn

from kdengine import SettingsError, hookimpl
from kdengine.testing import built, make_step

SHAPES = [(1, 2), (2, 10), (7, 3), (5, 100)]
PIXELS = 12


def softmax(logits):
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def kl(p, q):
    """Mean over the batch of sum_k p log(p / q), written out."""
    return sum(p[b, k] * np.log(p[b, k] / q[b, k]) for b, k in np.ndindex(p.shape)) / len(p)


def mimicry(own, partner, temperature=1.0, symmetric=False):
    q, p = softmax(own / temperature), softmax(partner / temperature)
    return (kl(p, q) + kl(q, p)) / 2 if symmetric else kl(p, q)


def mimicry_of_all(number, cohort, **options):
    partners = [logits for other, logits in enumerate(cohort) if other != number]
    return sum(mimicry(cohort[number], partner, **options) for partner in partners) / len(partners)


def cross_entropy(logits, labels):
    return -np.mean([np.log(softmax(logits)[b, label]) for b, label in enumerate(labels)])


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, classes, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, PIXELS, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.fixture
def cohort(leaf):
    """A method with linear peers, a step in which the student is linear too, and all networks, the student first."""

    def make(shape, peers=1, **options):
        networks = [Linear(shape[1], seed) for seed in range(1 + peers)]
        x, y = leaf(shape[0], 3, 2, 2, seed=9).detach(), torch.arange(shape[0]) % shape[1]
        step = make_step(student_logits=networks[0](x), labels=y, x=x)
        unused = iter(networks[1:])
        method = built(DML(peers=("teacher",) * peers, **options), step, new_network=lambda spec: next(unused))
        return method, step, networks

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_and_its_gradient_are_those_of_the_formula(shape, temperature, symmetric, leaf, slope, agree, gradient):
    own, partner = (leaf(*shape, seed=seed, dtype=torch.float64) for seed in (1, 2))
    s, p = arrays(own, partner)
    loss = mimicry_loss(own, partner, temperature, symmetric)
    agree(loss, mimicry(s, p, temperature, symmetric))
    agree(gradient(loss, own), slope(lambda moved: mimicry(moved, p, temperature, symmetric), s))


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_partner_gets_no_gradient(symmetric, leaf):
    own, partner = leaf(4, 6, seed=1), leaf(4, 6, seed=2)
    mimicry_loss(own, partner, 2.0, symmetric).backward()
    assert own.grad.abs().max() > 0
    assert partner.grad is None


def test_the_divergence_leads_from_the_partner_to_the_network_that_learns(leaf, agree, gradient):
    own, partner = leaf(4, 6, seed=1), leaf(4, 6, seed=2).detach()
    q, p = (softmax(array) for array in arrays(own, partner))
    agree(gradient(mimicry_loss(own, partner), own), (q - p) / 4)


@pytest.mark.parametrize("shape", [(1, 2), (4, 10), (6, 3)])
@pytest.mark.parametrize("peers", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"temperature": 3.0}])
def test_the_terms_are_the_students_divergence_and_all_that_the_peers_learn_from(shape, peers, options, cohort, agree):
    method, step, networks = cohort(shape, peers, **options)
    logits, y = arrays(*(network(step.x) for network in networks)), step.y.numpy()
    factor = options.get("temperature", 1.0) ** 2
    terms = method(step)
    assert set(terms) == {"mimic", "peers"}
    agree(terms["mimic"], factor * mimicry_of_all(0, logits, **options))
    expected = [cross_entropy(logits[i], y) + factor * mimicry_of_all(i, logits, **options) for i in range(1, 1 + peers)]
    agree(terms["peers"], sum(expected))


@pytest.mark.parametrize("peers", [1, 2])
@pytest.mark.parametrize("options", [{}, {"symmetric": True}])
def test_one_step_of_the_sum_is_one_step_of_each_network_on_its_own_loss(peers, options, cohort, slope, agree):
    method, step, networks = cohort((4, 3), peers, **options)
    before, x, y = arrays(*(network.weight for network in networks)), step.x.flatten(1).double().numpy(), step.y.numpy()
    (F.cross_entropy(step.student.logits, step.y) + sum(method(step).values())).backward()
    torch.optim.SGD([network.weight for network in networks], lr=1.0).step()
    for number, network in enumerate(networks):

        def own_loss(weight, number=number):
            logits = [x @ (weight if number == i else before[i]).T for i in range(len(networks))]
            return cross_entropy(logits[number], y) + mimicry_of_all(number, logits, **options)

        moved = torch.from_numpy(before[number]) - network.weight
        agree(moved, slope(own_loss, before[number]), relative=1e-4)  # a difference of weights of size 1, in float32


def test_several_steps_with_momentum_and_weight_decay_are_those_of_one_optimizer_each(cohort):
    method, step, together = cohort((6, 4), 2)
    apart = copy.deepcopy(together)
    settings = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    one = torch.optim.SGD([network.weight for network in together], **settings)
    many = [torch.optim.SGD(network.parameters(), **settings) for network in apart]
    for _ in range(4):
        step = make_step(student_logits=together[0](step.x), labels=step.y, x=step.x)
        one.zero_grad()
        (F.cross_entropy(step.student.logits, step.y) + sum(method(step).values())).backward()
        one.step()

        given = [F.softmax(network(step.x), dim=1).detach() for network in apart]
        for number, network in enumerate(apart):
            log_q, others = F.log_softmax(network(step.x), dim=1), [p for i, p in enumerate(given) if i != number]
            divergence = sum((p * (p.log() - log_q)).sum(1).mean() for p in others) / len(others)
            many[number].zero_grad()
            (F.nll_loss(log_q, step.y) + divergence).backward()
        for optimizer in many:
            optimizer.step()
    for network, twin in zip(together, apart, strict=True):
        torch.testing.assert_close(network.weight, twin.weight, rtol=1e-4, atol=1e-5)


def test_without_t_squared_the_divergence_is_smaller_by_that_factor(cohort, agree):
    method, step, networks = cohort((4, 6), temperature=3.0, t_squared=False)
    agree(method(step)["mimic"], mimicry(*arrays(*(network(step.x) for network in networks)), temperature=3.0))


def test_the_preset_bhheo_halves_the_divergences_of_both_directions(cohort, agree):
    method, step, networks = cohort((4, 6), preset="bhheo")
    s, p = (softmax(logits) for logits in arrays(*(network(step.x) for network in networks)))
    agree(method(step)["mimic"], 0.5 * kl(p, s) + 0.5 * kl(s, p))


def test_networks_that_agree_have_nothing_to_mimic_whatever_constant_is_added(leaf):
    logits = leaf(5, 7).detach()
    assert float(mimicry_loss(logits + 100, logits, 2.0, symmetric=True)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_logits_of_five_hundred_stay_finite(symmetric, gradient):
    own = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    loss = mimicry_loss(own, torch.tensor([[-500.0, 500.0, 0.0]]), 1.0, symmetric)
    assert loss.item() == pytest.approx(1000, rel=1e-5)
    assert torch.isfinite(gradient(loss, own)).all()


def test_the_peers_are_submodules_made_by_the_pair_one_for_each_spec(leaf):
    asked = []
    step = make_step(student_logits=leaf(2, 4), x=torch.zeros(2, 3, 2, 2))
    method = DML(peers="teacher, cnn2@widths=[16,32] ,student")
    built(method, step, new_network=lambda spec: asked.append(spec) or Linear(4, len(asked)))
    assert asked == ["teacher", "cnn2@widths=[16,32]", "student"]
    assert [name for name, _ in method.named_parameters()] == ["peers.0.weight", "peers.1.weight", "peers.2.weight"]


def test_the_teacher_is_not_read_and_the_task_keeps_its_full_weight():
    method = DML()
    assert method.options.peers == ("teacher",)
    assert list(method.taps_in("joint")) == []
    assert (method.task_weight, list(method.phases())) == (1, [])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"peer": ["student"]}, "'peers'"),
        ({"peers": ()}, "at least 1 item"),
        ({"peers": "student,"}, "at least 1 character"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"taps": "logits"}, "reads no taps"),
        ({"preset": "bheo"}, "'bhheo'"),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        DML(**options)


class Watch:
    """An observer that keeps the peers' weights before the run and after it."""

    def __init__(self):
        self.weights = []

    @hookimpl
    def kdengine_before_fit(self, run):
        self._keep(run)

    @hookimpl
    def kdengine_after_epoch(self, run, record):
        self._keep(run)

    def _keep(self, run):
        lane = run.lane
        self.weights.append({name: value.clone() for name, value in lane.module.distillers.state_dict().items()})


def test_student_and_peers_learn_the_task_together_from_scratch(distil):
    result = distil(
        ["dml"], "digits@train=128@test=64", epochs=3, train={"batch_size": 16, "lr": 0.1}, dml={"peers": "student"}
    )
    task, peers = ([record["terms"][name] for record in result.history] for name in ("task", "dml.peers"))
    assert set(result.history[0]["terms"]) == {"task", "dml.mimic", "dml.peers"}
    assert task[-1] < 0.85 * task[0]
    assert peers[-1] < 0.85 * peers[0]


def test_a_run_makes_the_peers_and_trains_them_but_not_the_teacher_first(distil, tmp_path):
    watch = Watch()
    result = distil(["dml"], "digits@train=16@test=8", teacher="resnet14", observers=[watch], dml={"peers": "student,teacher"})
    before, after = watch.weights
    deeper = {name.split(".")[2] for name in before if ".layer1.1." in name}  # the student has one block a stage
    assert deeper == {"1"}
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert result.teacher_top1 is None
    assert not (tmp_path / "cache").exists()


def test_a_ragged_last_batch_of_one_is_trained_on_like_any_other(distil):
    result = distil(["dml"], data="digits@train=129@test=64")
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())
