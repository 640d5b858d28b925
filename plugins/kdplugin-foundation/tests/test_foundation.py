import io
from typing import ClassVar

import numpy as np
import pytest
import torch
from kdplugin_foundation import Foundation, Prototypes, embedding_loss, patch_loss
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kdengine import Anatomy, Recorder, SettingsError, TapError
from kdengine.testing import DistillerContract, built, in_processes, make_step

TAU = 0.07


class TestContract(DistillerContract):
    method = "foundation"


class TestContractOfTheOtherOptions(DistillerContract):
    method = "foundation"
    options: ClassVar = {"projector": "mlp", "distance": "mse", "grid": "smaller", "length": 6}


def array(tensor):
    return tensor.detach().double().numpy()


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def cross_entropy(s, t, queue):
    """The term of the queue, image by image."""
    total = 0.0
    for a, b in zip(unit(s), unit(t), strict=True):
        ours, theirs = (np.array([one @ entry / TAU for entry in queue]) for one in (a, b))
        p = np.exp(theirs) / np.exp(theirs).sum()
        total -= (p * (ours - np.log(np.exp(ours).sum()))).sum()
    return total / len(s)


@pytest.mark.parametrize("shape", [(1, 3), (4, 7)])
def test_the_embedding_is_compared_by_its_angle(shape, leaf, slope, agree, gradient):
    s, t = leaf(*shape), 5 * leaf(*shape, seed=1).detach()

    def formula(moved):
        return np.mean([1 - a @ b for a, b in zip(unit(moved), unit(array(t)), strict=True)])

    loss = embedding_loss(s, t)
    agree(loss, formula(array(s)))
    agree(gradient(loss, s), slope(formula, array(s)))


@pytest.mark.parametrize("shape", [(1, 3), (4, 7)])
def test_or_by_squares_with_the_teachers_embedding_at_a_mean_square_of_one(shape, leaf, slope, agree, gradient):
    s, t = leaf(*shape), 5 * leaf(*shape, seed=1).detach()

    def formula(moved):
        return np.mean([(a - b / np.sqrt((b**2).mean())) ** 2 for a, b in zip(moved, array(t), strict=True)])

    loss = embedding_loss(s, t, "mse")
    agree(loss, formula(array(s)))
    agree(gradient(loss, s), slope(formula, array(s)))
    assert embedding_loss(torch.zeros(shape), t, "mse").item() == pytest.approx(1)


def averaged(x, rows, columns):
    """Maps [B, C, H, W] averaged over blocks."""
    b, c, h, w = x.shape
    return x.reshape(b, c, rows, h // rows, columns, w // columns).mean((3, 5))


def doubled(x):
    """Bilinear interpolation of [B, C, H, W] to twice the size: a half-pixel grid, edges repeated."""
    for axis in (2, 3):
        last = x.shape[axis] - 1
        near = np.repeat(x, 2, axis)
        other = [max(0, i // 2 - 1) if i % 2 == 0 else min(last, i // 2 + 1) for i in range(2 * (last + 1))]
        x = 0.75 * near + 0.25 * np.take(x, other, axis)
    return x


@pytest.mark.parametrize(
    ("mine", "theirs", "grid", "change"),
    [
        ((2, 2), (2, 2), "teacher", lambda s, t: (s, t)),
        ((4, 4), (2, 2), "teacher", lambda s, t: (averaged(s, 2, 2), t)),
        ((2, 2), (4, 4), "teacher", lambda s, t: (doubled(s), t)),
        ((2, 2), (4, 4), "smaller", lambda s, t: (s, averaged(t, 2, 2))),
        ((4, 2), (2, 4), "smaller", lambda s, t: (averaged(s, 2, 2), averaged(t, 2, 2))),
    ],
)
def test_patches_are_compared_position_by_position_on_one_grid(mine, theirs, grid, change, leaf, slope, agree, gradient):
    student, teacher = leaf(2, 3, *mine), leaf(2, 5, *theirs, seed=1).detach()
    adapter = nn.Conv2d(3, 5, 1)
    weight, bias = array(adapter.weight)[:, :, 0, 0], array(adapter.bias)

    def formula(moved):
        s, t = change(moved, array(teacher))
        cosines = [unit(weight @ s[b, :, i, j] + bias) @ unit(t[b, :, i, j]) for b, i, j in np.ndindex(len(s), *s.shape[2:])]
        return 1 - np.mean(cosines)

    loss = patch_loss(adapter, student, teacher, grid)
    agree(loss, formula(array(student)))
    agree(gradient(loss, student), slope(formula, array(student)), relative=2e-5)


def test_the_queue_is_a_cross_entropy_over_the_teachers_earlier_embeddings(leaf, slope, agree, gradient):
    queue = Prototypes(8, 5, TAU)
    earlier = [leaf(3, 5, seed=seed).detach() for seed in (1, 2)]
    for batch in earlier:
        queue(leaf(3, 5), batch)
    s, t = leaf(4, 5, seed=3), leaf(4, 5, seed=4).detach()
    entries = unit(array(torch.cat(earlier)))  # 6 of 8 places, and nothing of this batch
    loss = queue(s, t)
    agree(loss, cross_entropy(array(s), array(t), entries))
    agree(gradient(loss, s), slope(lambda moved: cross_entropy(moved, array(t), entries), array(s)), relative=2e-5)


def test_the_oldest_embeddings_make_room(leaf):
    queue, batches = Prototypes(5, 3, TAU), [leaf(2, 3, seed=seed).detach() for seed in range(4)]
    for batch in batches:
        queue(batch, batch)
    kept = unit(array(torch.cat(batches)))[-5:]  # numbers 3 to 7, from place 3
    assert np.allclose(array(queue.entries_QD), kept[[2, 3, 4, 0, 1]], atol=1e-6)


def test_a_batch_larger_than_the_queue_leaves_its_end(leaf):
    queue, batch = Prototypes(3, 2, TAU), leaf(8, 2).detach()
    queue(batch[:1], batch[:1])
    queue(batch, batch)
    kept = {tuple(row) for row in array(queue.entries_QD).round(5)}
    assert kept == {tuple(row) for row in unit(array(batch))[-3:].round(5)}
    assert queue.seen == 9


def test_an_empty_queue_costs_nothing(leaf, gradient):
    s, t = leaf(4, 5), leaf(4, 5, seed=1).detach()
    loss = Prototypes(8, 5, TAU)(s, t)
    assert loss == 0
    assert gradient(loss, s).abs().max() == 0


def test_after_a_restart_the_queue_goes_on_to_the_bit(leaf):
    batches = [(leaf(3, 4, seed=seed), leaf(3, 4, seed=seed + 50).detach()) for seed in range(6)]
    undisturbed, first, second = (Prototypes(7, 4, TAU) for _ in range(3))
    expected = [undisturbed(*batch) for batch in batches]
    found = [first(*batch) for batch in batches[:3]]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    found += [second(*batch) for batch in batches[3:]]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert torch.equal(second.entries_QD, undisturbed.entries_QD)


def test_zero_and_huge_embeddings_give_finite_values_and_gradients(leaf, gradient):
    for scale in (0.0, 1e-20, 1e15):
        s, t = leaf(4, 5), (scale * leaf(4, 5, seed=1)).detach()
        queue = Prototypes(8, 5, TAU)
        queue(s, t)
        maps = patch_loss(nn.Identity(), s.view(4, 5, 1, 1), t.view(4, 5, 1, 1))
        loss = queue(scale * s, t) + embedding_loss(scale * s, t) + embedding_loss(s, t, "mse") + maps
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient(loss, s)).all()


def step_of(leaf, **more):
    student = {"embedding": leaf(4, 3), "stage3": leaf(4, 6, 2, 2, seed=1)}
    teacher = {"embedding": leaf(4, 5, seed=2).detach(), "stage12": leaf(4, 5, 4, 4, seed=3).detach()}
    return make_step(student | more, teacher | {name: value.detach() for name, value in more.items()})


def test_terms_have_their_weights_and_several_maps_are_summed(leaf, agree):
    step = step_of(leaf, stage1=leaf(4, 2, 3, 3, seed=4))
    method = built(Foundation(embedding=2, patches=3, queue=5), step)
    predicted = method.projector(step.student["embedding"])
    terms = method(step), method(step)
    agree(terms[0]["embedding"], 2 * array(embedding_loss(predicted, step.teacher["embedding"])))
    each = [patch_loss(a, tap.student, tap.teacher) for a, tap in zip(method.adapters, step.pairs[1:], strict=True)]
    agree(terms[0]["patches"], 3 * sum(map(array, each)))
    assert terms[0]["queue"] == 0
    queue = unit(array(step.teacher["embedding"]))
    agree(terms[1]["queue"], 5 * cross_entropy(array(predicted), array(step.teacher["embedding"]), queue))


@pytest.mark.parametrize(
    ("options", "taps", "modules"),
    [
        ({"patches": 0}, ("embedding",), {"projector", "prototypes"}),
        ({"patches": 0, "queue": 0}, ("embedding",), {"projector"}),
        ({"embedding": 0}, ("embedding", "stage-1"), {"projector", "prototypes", "adapters"}),
        ({"embedding": 0, "queue": 0}, ("stage-1",), {"adapters"}),
        ({"embedding": 0, "queue": 0, "taps": ("logits", "stage2", "stage3")}, ("stage2", "stage3"), {"adapters"}),
    ],
)
def test_a_term_without_weight_reads_nothing_and_has_no_connector(options, taps, modules, leaf):
    method = Foundation(**options)
    assert tuple(method.taps_in("joint")) == taps
    shown = {"embedding": (4, 3)} if "embedding" in taps else {}
    shown |= {name: (4, 6, 2, 2) for name in taps if name.startswith("stage")}
    step = make_step(*({name: leaf(*shape) for name, shape in shown.items()} for _ in range(2)))
    method = built(method, step)
    assert {name for name, _ in method.named_children()} == modules
    expected = {"embedding", "patches", "queue"} - {name for name, value in options.items() if value == 0}
    assert set(method(step)) == expected


def test_the_queue_is_no_longer_than_there_are_images(leaf):
    step = step_of(leaf)
    assert len(built(Foundation(), step, num_samples=50).prototypes.entries_QD) == 50
    assert len(built(Foundation(length=20), step, num_samples=50).prototypes.entries_QD) == 20


def test_patches_without_maps_are_refused_with_the_fix(leaf):
    vectors = make_step({"embedding": leaf(2, 3)}, {"embedding": leaf(2, 4)})
    with pytest.raises(SettingsError, match="embedding,stage-1"):
        built(Foundation(), vectors)
    tokens = {"embedding": leaf(2, 3), "blocks.0": leaf(2, 5, 3)}
    with pytest.raises(TapError, match=r"blocks\.0.*patches=0"):
        built(Foundation(), make_step(tokens, tokens))


@pytest.mark.parametrize("option", [{"embedding": 0, "patches": 0, "queue": 0}, {"temperature": 0}, {"distance": "l1"}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(SettingsError, match=list(option)[-1]):
        Foundation(**option)


@pytest.mark.parametrize("registers", [0, 4])
def test_patches_of_a_transformer_are_those_of_the_image_alone(registers):
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 0}
    network = VisionTransformer(reg_tokens=registers, **options).eval()
    anatomy = Anatomy.of(network, (3, 32, 32))
    seen = []
    network.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), Recorder(network, anatomy.resolve_all(["embedding", "stage-1"])) as recorder:
        trace = recorder(images)
    (tokens,) = seen
    assert tokens.shape[1] == 1 + registers + 16
    last = next(name for name in trace if name.startswith("stage"))
    assert torch.equal(trace[last], tokens[:, 1 + registers :].transpose(1, 2).reshape(2, 12, 4, 4))
    assert torch.equal(trace["embedding"], network.norm(tokens)[:, 0])


def test_a_run_learns_from_a_labelled_teacher_beside_the_task(distil):
    result = distil(["foundation"], epochs=3, train={"batch_size": 32, "lr": 0.05})
    first, last = result.history[0]["terms"], result.history[-1]["terms"]
    assert first.keys() == {"task", "foundation.embedding", "foundation.patches", "foundation.queue"}
    for name in ("foundation.embedding", "foundation.patches"):
        assert last[name] < 0.9 * first[name]


@pytest.mark.slow
def test_a_run_learns_from_images_alone_and_comes_closer_to_its_teacher(distil, networks):
    (teacher,) = networks("resnet20")
    teacher.reset_classifier(0)
    train = {"task": "unlabelled", "batch_size": 32, "lr": 0.1}
    result = distil(["foundation"], "digits@train=128@test=64", teacher=teacher, epochs=4, train=train)
    first, last = result.history[0], result.history[-1]
    assert first["terms"].keys() == {"foundation.embedding", "foundation.patches", "foundation.queue"}
    assert last["terms"]["foundation.embedding"] < 0.5 * first["terms"]["foundation.embedding"]
    assert last["test_similarity"] > first["test_similarity"] > 0


def test_the_queue_of_two_processes_is_that_of_one_with_the_whole_batch(leaf):
    batches = [(leaf(count, 3, seed=1).detach(), leaf(count, 4, seed=seed).detach()) for seed, count in ((2, 4), (3, 5))]

    def one(rank, processes):
        queue = Prototypes(7, 4, TAU)
        for _, teacher in batches:
            queue(teacher[rank::2], teacher[rank::2], processes)
        return queue

    alone = Prototypes(7, 4, TAU)
    for _, teacher in batches:
        alone(teacher, teacher)
    for queue in in_processes(2, one):
        assert torch.equal(queue.entries_QD, alone.entries_QD)
        assert queue.seen == 9
