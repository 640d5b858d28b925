"""Every family of timm with every method, on the meta device; and a few of them for real."""

import random
import re

import pytest
import timm
import torch

from kdengine import Distiller, Registry
from kdengine.tasks import Segmentation, Unlabelled
from kdengine.testing.families import SMALLEST
from kdengine.testing.matrix import Pairing, make_network, smallest_network

CHAINS = {"takd", "multi"}
"""They train further networks by the terms of the others; for them one family is as good as another."""
OF_CLASSIFIERS = {"cat-kd", "simkd", "srrl"}
"""They read classifiers, which some networks do not have in the form that they need."""
SAMPLE = random.Random(20).sample(sorted(SMALLEST), 8)


class Picky(Distiller):
    """Needs what a small CNN does not have."""

    name = "picky"
    taps = ("stage9",)

    def forward(self, step):
        return {"loss": step.student["stage9"].mean()}


class Clumsy(Distiller):
    """Fails while it computes."""

    name = "clumsy"

    def forward(self, step):
        raise ZeroDivisionError("oh")


@pytest.fixture(scope="module")
def registry():
    found = Registry()
    found.load_all()
    return found


@pytest.fixture(scope="module")
def methods(registry):
    return [
        name for name in registry.all_methods(serving="classes") if name in registry.offered("methods") and name not in CHAINS
    ]


@pytest.fixture(scope="module", params=[True, False], ids=["meta", "real"])
def pairing(request):
    networks = [make_network(spec, 32, meta=request.param) for spec in ("resnet14", "resnet8")]
    return Pairing(*networks, 32, meta=request.param)


class Stepping(Distiller):
    """Remembers what it saw of the student's weights at each step."""

    name = "stepping"

    def forward(self, step):
        self.seen = [*getattr(self, "seen", []), step.student.logits.detach().clone()]
        return {"loss": step.student.logits.square().mean()}


def test_a_method_that_works_has_nothing_to_say_and_the_student_is_stepped_and_then_as_before(pairing):
    before = [value.clone() for value in pairing.student.module.state_dict().values()]
    for _ in range(2):
        assert pairing.attempt("at") is None
    assert all(value.grad is not None for value in pairing.student.module.parameters())
    if not pairing.meta:
        first, second = Stepping(), Stepping()
        assert pairing.attempt(first) is None
        assert pairing.attempt(second) is None
        assert torch.equal(first.seen[0], second.seen[0])
        assert all(torch.equal(a, b) for a, b in zip(before, pairing.student.module.state_dict().values(), strict=True))


def test_a_method_that_does_not_fit_says_so_in_the_words_of_the_program_and_a_fault_by_its_kind(pairing):
    assert "stage9" in pairing.attempt(Picky())
    assert pairing.attempt(Clumsy()) == "ZeroDivisionError: oh"


@pytest.mark.slow
def test_a_network_is_made_for_the_smallest_images_it_takes():
    assert smallest_network("timm:resnet18")[1] == 64
    network, side = smallest_network("timm:crossvit_tiny_240")
    assert side == 240
    assert network.anatomy.probe.logits.shape == (2, 10)


def refused(pairing, methods):
    """Why methods do not work on a pair, those that do left out."""
    return {name: why for name, why in pairing.attempts(*methods).items() if why is not None}


def check_refusals(why):
    """Only what reads a classifier may not work, where the logits are not those of one, and it says so itself."""
    assert set(why) <= OF_CLASSIFIERS, why
    assert not [reason for reason in why.values() if re.match(r"\w+(Error|Exception|Interrupt): ", reason)], why


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(SMALLEST))
def test_every_method_works_on_every_family(family, methods):
    """All methods in one lane; the families take turns in teaching a CNN, being taught by one, and teaching a transformer."""
    if not timm.is_model(SMALLEST[family]):
        pytest.skip(f"this timm has no {SMALLEST[family]}")
    network, side = smallest_network(f"timm:{SMALLEST[family]}")
    if network.anatomy.parameters > 4e7:
        pytest.skip(f"{SMALLEST[family]} is too large to try all methods at once in a test; benchmarks/compatibility.py does")
    turn = sorted(SMALLEST).index(family) % 3
    other = make_network(("resnet8", "resnet8", "timm:vit_tiny_patch16_224")[turn], side)
    pair = (other, network) if turn == 1 else (network, other)
    pairing = Pairing(*pair, side)
    assert pairing.attempt(*(name for name in methods if name not in OF_CLASSIFIERS)) is None
    check_refusals(refused(pairing, sorted(OF_CLASSIFIERS)))


@pytest.mark.slow
@pytest.mark.parametrize("family", SAMPLE)
def test_a_sample_works_for_real(family, methods):
    if not timm.is_model(SMALLEST[family]):
        pytest.skip(f"this timm has no {SMALLEST[family]}")
    network, side = smallest_network(f"timm:{SMALLEST[family]}")
    if network.anatomy.parameters > 4e7:
        pytest.skip(f"{SMALLEST[family]} is too large for a test")
    network, other = (make_network(spec, side, meta=False) for spec in (network.name, "resnet8"))
    method = random.Random(family).choice(methods)
    for pair in ((network, other), (other, network)):
        check_refusals(refused(Pairing(*pair, side, meta=False), [method]))


@pytest.mark.sample(1)
@pytest.mark.parametrize("family", sorted(SMALLEST))
def test_every_family_learns_and_teaches_without_labels(family):
    """A backbone without a classifier, on the meta device, by what methods of embeddings and maps read."""
    if not timm.is_model(SMALLEST[family]):
        pytest.skip(f"this timm has no {SMALLEST[family]}")
    task = Unlabelled()
    side = smallest_network(f"timm:{SMALLEST[family]}")[1]
    network, other = (make_network(spec, side, task=task) for spec in (f"timm:{SMALLEST[family]}", "resnet8"))
    for pair in ((network, other), (other, network)):
        assert Pairing(*pair, side, task=task).attempt("foundation", "rkd", "fitnet") is None


@pytest.mark.sample(1)
@pytest.mark.parametrize("family", SAMPLE)
def test_a_head_for_pixels_behind_a_sample_teaches_and_learns(family):
    if not timm.is_model(SMALLEST[family]):
        pytest.skip(f"this timm has no {SMALLEST[family]}")
    task = Segmentation(10)
    side = smallest_network(f"timm:{SMALLEST[family]}")[1]
    network, other = (make_network(f"seg:{name}", side, meta=False, task=task) for name in (SMALLEST[family], "resnet8"))
    if network.anatomy.parameters > 4e7:
        pytest.skip(f"{SMALLEST[family]} is too large for a test")
    for pair in ((network, other), (other, network)):
        assert Pairing(*pair, side, meta=False, task=task).attempt("st", "cwd", "at") is None


@pytest.mark.sample(1)
@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_chains_work_on_a_cnn_and_a_transformer(chain):
    networks = [make_network(spec, 64) for spec in ("timm:vit_tiny_patch16_224", "resnet8")]
    assert Pairing(*networks, 64).attempt(chain) is None
