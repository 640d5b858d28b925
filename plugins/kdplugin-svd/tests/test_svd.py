from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from kdplugin_svd import SVD, aligned, leading_vectors, projected, relation, relation_loss

from kdengine import Adapter, SettingsError, TapError
from kdengine.testing import built, make_step

ALIKE = (((3, 2, 3), (3, 2, 3)), ((5, 2, 2), (5, 2, 2)))
"""The shapes of an image's maps at consecutive taps, of student and teacher."""
MAPS = [
    ALIKE,
    (((2, 4, 2), (2, 3, 1)), ((6, 2, 2), (6, 3, 1))),  # other sizes, not square, and fewer places than channels
    (((3, 2, 2), (3, 2, 2)), ((4, 2, 3), (4, 2, 3)), ((5, 1, 1), (5, 1, 1))),  # three taps, the last of one place
]
OPTIONS = [{}, {"k": 2, "extra": 1}, {"k": 2, "extra": 0, "sigma_weight": False}, {"k": 4, "extra": 0, "floor": 1e-3}]


def decomposed(image):
    """Singular values and right singular vectors (rows) of one map, the largest entry of each vector positive."""
    matrix = np.array([[image[c, i, j] for c in range(len(image))] for i, j in np.ndindex(image.shape[1:])])
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    return matrix, values, [row if row[np.abs(row).argmax()] > 0 else -row for row in rows]


def nearest(vectors, target):
    """Of several vectors the one with the largest |cos| to the target, turned the same way."""
    cosines = [float(vector @ target) for vector in vectors]
    best = max(range(len(vectors)), key=lambda place: abs(cosines[place]))
    return vectors[best] * np.sign(cosines[best])


def shortened(vector, floor):
    return vector / np.sqrt((vector**2).sum() + floor)


def pooled(image, size):
    rows, columns = image.shape[1] // size[0], image.shape[2] // size[1]
    return image.reshape(len(image), size[0], rows, size[1], columns).mean((2, 4))


def compared(student, teacher, k, choice, project, sigma_weight, floor):
    """The vectors of one image at one tap, student's and teacher's: two lists of k; ``choice`` of the student's are tried."""
    if project:
        size = [min(sides) for sides in zip(student.shape[1:], teacher.shape[1:], strict=True)]
        student, teacher = pooled(student, size), pooled(teacher, size)
    matrix, values, theirs = decomposed(teacher)
    theirs = theirs[:k]
    if project:
        seen = decomposed(student)[0]
        ours = [seen.T @ shortened(matrix @ vector, 0) for vector in theirs]
    else:
        ours = [nearest(decomposed(student)[2][:choice], vector) for vector in theirs]
    weights = shortened(values[:k], floor) if sigma_weight else np.ones(k)
    return [
        [weight * shortened(vector, floor) for weight, vector in zip(weights, side, strict=True)] for side in (ours, theirs)
    ]


def kernel(a, b):
    return np.exp(-((a - b) ** 2) / 8)


def loss_of(students, teachers, k=1, extra=3, project=False, sigma_weight=True, floor=0.0, reduction="mean"):
    """The loss of maps at consecutive taps, written out entry by entry."""
    choice, total = k + extra, 0.0
    k = min([k, *(min(maps.shape[1], maps[0, 0].size) for maps in teachers)])
    for image in range(len(students[0])):
        sides = [
            compared(s[image], t[image], k, choice, project, sigma_weight, floor)
            for s, t in zip(students, teachers, strict=True)
        ]
        for (ours, theirs), (ours_next, theirs_next) in pairwise(sides):
            for v_s, v_t, w_s, w_t in zip(ours, theirs, ours_next, theirs_next, strict=True):
                for d, c in np.ndindex(len(w_s), len(v_s)):
                    total += (kernel(w_s[d], v_s[c]) - kernel(w_t[d], v_t[c])) ** 2
    return total / len(students[0]) if reduction == "mean" else total


def arrays(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.fixture
def maps(leaf):
    """A step on random maps, the student's leaves, and both sides as float64 arrays."""

    def make(shapes, count=2, dtype=torch.float64, rectified=False):
        taps = [
            {
                f"stage{place}": leaf(count, *pair[side], seed=9 * place + side, rectified=rectified).detach().to(dtype)
                for place, pair in enumerate(shapes, 1)
            }
            for side in (0, 1)
        ]
        students, teachers = ([*side.values()] for side in taps)
        step = make_step(*taps)
        return step, [student.requires_grad_() for student in students], arrays(*students), arrays(*teachers)

    return make


@pytest.mark.parametrize("shapes", MAPS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("decomposition", ["eigh", "svd"])
def test_the_loss_and_its_gradient_are_those_of_the_formula(shapes, options, decomposition, maps, slope, agree):
    # in float64, since it is a small difference of exponentials; for float32 see below
    step, students, s, t = maps(shapes)
    loss = built(SVD(decomposition=decomposition, beta=3.0, **options), step)(step)["relation"]
    agree(loss, 3 * loss_of(s, t, **options))
    for place, found in enumerate(torch.autograd.grad(loss, students)):
        agree(
            found, slope(lambda moved, place=place: 3 * loss_of([*s[:place], moved, *s[place + 1 :]], t, **options), s[place])
        )


@pytest.mark.parametrize(
    "shapes",
    [
        ALIKE,
        (((3, 4, 4), (3, 2, 2)), ((5, 2, 1), (5, 4, 1))),  # the larger map is pooled, on either side
    ],
)
@pytest.mark.parametrize("options", [{}, {"k": 2}, {"k": 2, "sigma_weight": False, "floor": 1e-3}])
def test_a_projection_takes_the_teachers_left_vectors_for_the_student_too(shapes, options, maps, slope, agree):
    step, students, s, t = maps(shapes)
    variant = {"project": True, **options}
    loss = built(SVD(decomposition="project", **options), step)(step)["relation"]
    agree(loss, loss_of(s, t, **variant))
    for place, found in enumerate(torch.autograd.grad(loss, students)):
        agree(found, slope(lambda moved, place=place: loss_of([*s[:place], moved, *s[place + 1 :]], t, **variant), s[place]))


@pytest.mark.parametrize("decomposition", ["eigh", "svd", "project"])
@pytest.mark.parametrize("options", [{}, {"k": 4, "extra": 0}])
def test_in_float32_the_value_keeps_four_digits_and_the_gradient_three(decomposition, options, maps, agree):
    shapes = [[(width, side, side)] * 2 for width, side in ((8, 8), (16, 4), (32, 2))]
    losses, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        step, students, *_ = maps(shapes, 4, dtype, rectified=True)
        loss = built(SVD(decomposition=decomposition, **options), step)(step)["relation"]
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, students))
    assert losses[0].dtype == torch.float32
    agree(losses[0], losses[1].item(), relative=1e-4)
    for single, double in zip(*gradients, strict=True):
        agree(single, double.numpy(), relative=1e-3)  # of 1 / (difference of squared singular values)


def test_the_sum_over_the_batch_is_as_many_times_the_mean(maps, agree):
    step, _, s, t = maps(ALIKE)
    agree(built(SVD(reduction="sum"), step)(step)["relation"], loss_of(s, t, reduction="sum"))
    agree(built(SVD(), step)(step)["relation"], loss_of(s, t, reduction="sum") / 2)


def test_the_default_is_one_vector_of_the_teacher_and_four_of_the_student():
    options = SVD().options
    assert (options.k, options.extra, options.decomposition, options.sigma_weight) == (1, 3, "eigh", True)
    assert (options.reduction, options.beta, options.floor) == ("mean", 1.0, 0.0)


def test_the_gradient_is_clipped_to_the_tasks_unless_said_otherwise():
    assert SVD().options.clip_to_task is True
    assert SVD(clip_to_task=False).options.clip_to_task is False
    assert SVD(preset="repdistiller").options.clip_to_task is False


def test_the_preset_sseung_sums_four_weighed_vectors_of_stages_two_and_three(maps, agree):
    method = SVD(preset="sseung")
    step, _, s, t = maps([[(5, 4, 4)] * 2, [(6, 3, 3)] * 2])
    assert list(method.taps_in("joint")) == ["stage2", "stage3"]
    agree(built(method, step)(step)["relation"], loss_of(s, t, k=4, extra=0, floor=1e-3, reduction="sum"))
    assert method.options.clip_to_task is True


def test_the_preset_bhheo_sums_four_equal_vectors_of_all_stages(maps, agree):
    method = SVD(preset="bhheo")
    step, _, s, t = maps([[(4, 4, 4)] * 2, [(5, 3, 3)] * 2, [(6, 2, 2)] * 2])
    assert list(method.taps_in("joint")) == ["stages"]
    agree(built(method, step)(step)["relation"], loss_of(s, t, k=4, extra=0, floor=1e-3, sigma_weight=False, reduction="sum"))


def test_the_preset_repdistiller_is_the_default_loss(maps, agree):
    step, _, s, t = maps(ALIKE)
    agree(built(SVD(preset="repdistiller"), step)(step)["relation"], loss_of(s, t))


@pytest.mark.parametrize("decomposition", ["eigh", "svd"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 9, 2, 2), (2, 4, 2, 2), (3, 1, 2, 3), (3, 5, 1, 1)])
def test_the_vectors_are_those_of_every_images_matrix_of_places_by_channels(shape, decomposition, leaf, agree):
    maps = leaf(*shape, dtype=torch.float64).detach()
    count = min(3, shape[1], shape[2] * shape[3])
    values, vectors = leading_vectors(maps, count, decomposition)
    for image, found, turned in zip(maps.numpy(), values, vectors, strict=True):
        _, expected, rows = decomposed(image)
        agree(found, expected[:count], relative=1e-10)
        agree(turned, np.array(rows[:count]).T, relative=1e-8)


@pytest.mark.parametrize("decomposition", ["eigh", "svd"])
@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (1, 7, 2, 2), (2, 4, 2, 2)])
def test_the_gradient_of_the_vectors_is_exact(shape, decomposition, leaf):
    maps = leaf(*shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda maps: leading_vectors(maps, 3, decomposition)[1], maps, atol=1e-6)


@pytest.mark.parametrize("decomposition", ["eigh", "svd"])
def test_dead_channels_leave_the_gradient_of_the_living_vectors_exact(decomposition, leaf, slope, agree):
    maps = leaf(1, 6, 3, 3, dtype=torch.float64).detach()
    maps[:, 2:5] = 0  # three of six
    maps.requires_grad_()
    weights = leaf(6, 2, seed=1, dtype=torch.float64).detach()
    (found,) = torch.autograd.grad((leading_vectors(maps, 2, decomposition)[1][0] * weights).sum(), maps)

    def formula(moved):
        return (np.array(decomposed(moved[0])[2][:2]).T * weights.numpy()).sum()

    agree(found, slope(formula, maps.detach().numpy()))


@pytest.mark.parametrize("decomposition", ["eigh", "svd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_singular_values_give_finite_gradients(decomposition, dtype, leaf):
    maps = torch.eye(4, dtype=dtype).reshape(1, 4, 2, 2).requires_grad_()  # four singular values of 1
    (slope,) = torch.autograd.grad((leading_vectors(maps, 3, decomposition)[1] * leaf(4, 3, dtype=dtype).detach()).sum(), maps)
    assert slope.abs().max() < 10


@pytest.mark.parametrize("decomposition", ["eigh", "svd"])
@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 9, 2, 2)])
def test_a_vector_without_a_singular_value_is_zero_and_has_no_gradient(shape, decomposition, leaf):
    row, column = leaf(2, shape[1], 1).detach(), leaf(2, 1, shape[2] * shape[3], seed=1).detach()
    maps = (row * column).reshape(shape).requires_grad_()  # rank 1
    values, vectors = leading_vectors(maps, 3, decomposition)
    assert vectors[:, :, 1:].abs().max() == 0
    assert (values[:, 1:] < 2e-3 * values[:, :1]).all()
    weights = leaf(*vectors.shape, seed=2).detach()
    all_of_them, the_first = (
        torch.autograd.grad((vectors * weights)[:, :, :count].sum(), maps, retain_graph=True)[0] for count in (3, 1)
    )
    assert torch.equal(all_of_them, the_first)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_the_scale_of_a_map_changes_nothing_even_where_its_square_leaves_float32(scale, leaf, agree):
    maps = leaf(2, 5, 3, 3).detach()
    (values, vectors), (scaled, same) = leading_vectors(maps, 3), leading_vectors(scale * maps, 3)
    agree(same, vectors.numpy())
    agree(scaled / scale, values.numpy())


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_a_map_that_is_not_finite_makes_the_loss_so_that_the_run_can_say_it(fault, maps):
    step, students, *_ = maps(ALIKE)
    with torch.no_grad():
        students[0][1, 2, 0, 0] = fault
    assert built(SVD(), step)(step)["relation"].isnan()


def test_each_of_the_teachers_vectors_gets_the_nearest_of_the_students_with_the_right_sign():
    student = torch.tensor([[[1.0, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]]])  # columns
    teacher = torch.tensor([[[0.0, 0, -1], [0.1, 0, 0], [0.9, -1, 0.1]]])
    expected = torch.stack([student[0, :, 2], -student[0, :, 2], -student[0, :, 0]], 1)[None]
    assert torch.equal(aligned(student, teacher), expected)


def test_the_choice_among_the_students_vectors_has_no_gradient_and_the_chosen_one_has(leaf):
    student, teacher = leaf(2, 4, 3, seed=1), leaf(2, 4, 1, seed=2)
    slopes = torch.autograd.grad(aligned(student, teacher).sum(), [student, teacher], allow_unused=True)
    assert slopes[1] is None
    assert slopes[0].abs().sum((1,)).bool().sum(1).tolist() == [1, 1]
    assert set(slopes[0].flatten().tolist()) <= {-1.0, 0.0, 1.0}


def test_a_projection_of_the_teacher_on_itself_gives_its_own_vectors(leaf, agree):
    maps = leaf(2, 4, 3, 3, dtype=torch.float64).detach()
    values, vectors = leading_vectors(maps, 2)
    agree(projected(maps, maps, vectors), (vectors * values[:, None]).numpy(), relative=1e-10)


def test_a_relation_compares_every_entry_with_every_entry_of_the_next_tap(leaf, agree):
    v, w = leaf(2, 3, 2, seed=1).detach(), leaf(2, 4, 2, seed=2).detach()
    expected, (a, b) = np.zeros((2, 4, 3, 2)), arrays(v, w)
    for image, d, c, j in np.ndindex(expected.shape):
        expected[image, d, c, j] = kernel(b[image, d, j], a[image, c, j]) - 1
    agree(relation(v, w), expected)


def test_the_teacher_gets_no_gradient(leaf):
    names = ("stage1", "stage2")
    student, teacher = ({name: leaf(2, 4, 3, 3, seed=seed + place) for place, name in enumerate(names)} for seed in (0, 5))
    step = make_step(student=student, teacher=teacher)
    for decomposition in ("eigh", "svd", "project"):
        loss = built(SVD(decomposition=decomposition, k=2), step)(step)["relation"]
        assert torch.autograd.grad(loss, list(teacher.values()), allow_unused=True) == (None, None)
    vectors = [leaf(2, 3, 1, seed=seed) for seed in range(4)]
    loss = relation_loss(vectors[:2], vectors[2:])
    assert torch.autograd.grad(loss, vectors[2:], allow_unused=True) == (None, None)


@pytest.mark.parametrize("decomposition", ["eigh", "svd", "project"])
def test_equal_maps_cost_nothing(decomposition, leaf):
    maps = {f"stage{place}": leaf(2, 4, 4, 4, seed=place).detach() for place in (1, 2)}
    step = make_step(student=maps, teacher=maps)
    assert built(SVD(decomposition=decomposition, k=3), step)(step)["relation"].item() < 1e-10


def test_where_the_channels_fire_does_not_matter_nor_how_strongly_all_of_them_do(leaf):
    """Right singular vectors do not change when the rows of the matrix change places; mixing channels with places would."""
    student, teacher = (
        {f"stage{place}": leaf(2, 3 + place, 4, 2, seed=seed + place).detach() for place in (1, 2)} for seed in (0, 5)
    )
    moved = {name: 7 * maps.flip(3).transpose(2, 3) for name, maps in student.items()}
    losses = []
    for taps in (student, moved):
        step = make_step(student=taps, teacher=teacher)
        losses.append(built(SVD(), step)(step)["relation"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("decomposition", ["eigh", "svd", "project"])
@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_dead_maps_give_a_finite_loss_and_finite_gradients(decomposition, dead, leaf):
    alive = [{f"stage{place}": leaf(2, 4, 3, 3, seed=seed + place).detach() for place in (1, 2)} for seed in (0, 5)]
    student, teacher = (
        {name: torch.zeros_like(maps) if dead in (side, "both") else maps for name, maps in taps.items()}
        for side, taps in zip(("student", "teacher"), alive, strict=True)
    )
    leaves = [maps.requires_grad_() for maps in student.values()]
    step = make_step(student=student, teacher=teacher)
    loss = built(SVD(decomposition=decomposition, k=2), step)(step)["relation"]
    assert torch.isfinite(loss)
    for slope in torch.autograd.grad(loss, leaves):
        assert torch.isfinite(slope).all()
        if dead != "teacher" and decomposition != "project":
            assert slope.abs().max() == 0


@pytest.mark.parametrize("decomposition", ["eigh", "svd", "project"])
@pytest.mark.parametrize("scale", [1e-12, 1e-14, 1e-18, 1e-30])
def test_tiny_maps_of_the_student_give_its_usual_loss_and_a_finite_gradient(decomposition, scale, leaf, agree):
    names = ("stage1", "stage2")
    student, teacher = (
        {name: leaf(2, 4, 3, 3, seed=seed + place).detach() for place, name in enumerate(names)} for seed in (0, 5)
    )
    losses, slopes = [], []
    for factor in (1.0, scale):
        leaves = {name: (factor * maps).requires_grad_() for name, maps in student.items()}
        step = make_step(student=leaves, teacher=teacher)
        loss = built(SVD(decomposition=decomposition, k=2), step)(step)["relation"]
        losses.append(loss)
        slopes.append(torch.autograd.grad(loss, list(leaves.values())))
    assert all(torch.isfinite(slope).all() for slope in slopes[1])
    if decomposition != "project" or scale > 1e-19:  # a shorter projection counts as zero, for its square does
        agree(losses[1], losses[0].item(), relative=1e-3)
        for tiny, usual in zip(*slopes[::-1], strict=True):
            agree(tiny * scale, usual.numpy(), relative=1e-3)


@pytest.mark.parametrize("decomposition", ["eigh", "svd", "project"])
def test_dead_channels_of_a_rectifier_give_finite_gradients(decomposition, leaf):
    names = ("stage1", "stage2")
    taps = [{name: leaf(4, 8, 3, 3, seed=seed + place).detach().relu() for place, name in enumerate(names)} for seed in (0, 5)]
    for maps in (*taps[0].values(), *taps[1].values()):
        maps[:, 1:7] = 0
    leaves = [maps.requires_grad_() for maps in taps[0].values()]
    step = make_step(student=taps[0], teacher=taps[1])
    loss = built(SVD(decomposition=decomposition, k=4), step)(step)["relation"]
    assert all(slope.abs().max() < 100 for slope in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("decomposition", ["eigh", "svd", "project"])
@pytest.mark.parametrize("shape", [(4, 3, 3), (6, 1, 1), (1, 3, 3)])
def test_more_vectors_than_a_map_has_are_all_it_has(decomposition, shape, maps, agree):
    step, _, s, t = maps([[shape] * 2, [(5, 3, 3)] * 2])
    loss = built(SVD(decomposition=decomposition, k=50), step)(step)["relation"]
    agree(loss, loss_of(s, t, k=50, project=decomposition == "project"))


def test_a_student_of_other_widths_passes_a_linear_map_and_normalisation_where_they_differ(maps, slope, agree):
    step, students, s, t = maps((((3, 3, 2), (3, 4, 1)), ((4, 2, 2), (5, 2, 2))))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the slope is taken by differences, which some weights make too coarse
        method = built(SVD(), step).double()
    assert [type(adapter) for adapter in method.adapters] == [torch.nn.Identity, Adapter]
    adapter = method.adapters[1]
    assert {name: list(value.shape) for name, value in adapter.named_parameters()} == {
        "mix.weight": [5, 4, 1, 1],
        "norm.weight": [5],
        "norm.bias": [5],
    }

    def formula(weight):
        mapped = np.einsum("bchw,dc->bdhw", s[1], weight[:, :, 0, 0])
        mean, variance = mapped.mean((0, 2, 3), keepdims=True), mapped.var((0, 2, 3), keepdims=True)
        return loss_of([s[0], (mapped - mean) / np.sqrt(variance + 1e-5)], t)

    (weight,) = arrays(adapter.mix.weight)
    loss = method(step)["relation"]
    agree(loss, formula(weight))
    found, *others = torch.autograd.grad(loss, [adapter.mix.weight, *students])
    agree(found, slope(formula, weight))
    assert all(other.abs().max() > 0 for other in others)


def test_a_single_tap_is_refused_with_the_way_out(distil):
    with pytest.raises(TapError, match=r"svd: there is one tap, 'stage3', .*two are needed.*svd.taps='stage2,stage3'"):
        distil(["svd"], svd={"taps": ["stage3=stage2"]})


def test_taps_that_hold_no_maps_are_refused(leaf):
    step = make_step(*({"stage1": leaf(2, 4, 3, 3), "embedding": leaf(2, 4)} for _ in range(2)))
    with pytest.raises(TapError, match=r"'embedding' the student has \[2, 4\].*maps \[B, C, H, W\]"):
        built(SVD(), step)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"kk": 1}, "'k'"),
        ({"k": 0}, "greater than or equal to 1"),
        ({"decomposition": "evd"}, "'eigh', 'svd' or 'project'"),
        ({"preset": "bheo"}, "'bhheo'"),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_out(options, fault):
    with pytest.raises(SettingsError, match=fault):
        SVD(**options)


def test_the_task_keeps_its_full_weight_and_there_is_no_phase_of_its_own():
    assert SVD().task_weight == 1
    assert list(SVD().phases()) == []


def test_a_run_records_the_relation_of_all_three_stages_beside_the_whole_task(one_step):
    (terms,), student, teacher, y = one_step(["svd"])
    names = ("stage1", "stage2", "stage3")
    assert terms["svd.relation"] == pytest.approx(loss_of([student[n] for n in names], [teacher[n] for n in names]), rel=1e-3)
    z = student["logits"]
    assert terms["task"] == pytest.approx(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]), rel=1e-4)


def test_used_twice_each_reads_its_own_taps_also_across_stages(one_step):
    options = (
        {"taps": ["stage2", "stage3"], "decomposition": "svd"},
        {"taps": ["stage1=stage2", "stage2=stage3"], "weight": 0.5},
    )
    methods = [SVD(**options[0]), SVD(**options[1])]
    (terms,), student, teacher, _ = one_step(methods)
    expected = loss_of([student["stage2"], student["stage3"]], [teacher["stage2"], teacher["stage3"]])
    assert terms["svd.relation"] == pytest.approx(expected, rel=1e-3)
    assert terms["svd-2.relation"] > 0
    assert [type(adapter) for adapter in methods[1].adapters] == [Adapter, Adapter]


def test_a_ragged_last_batch_of_one_trains_like_any_other(distil):
    result = distil(["svd"], data="digits@train=129@test=64")
    assert all(np.isfinite(value) and value > 0 for record in result.history for value in record["terms"].values())


def test_a_transformer_teaches_a_convolutional_student(distil):
    teacher = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=4, num_heads=2, num_classes=10
    )
    method = SVD()
    result = distil([method], data="digits@train=16@test=8", teacher=teacher)
    assert result.history[0]["terms"]["svd.relation"] > 0
    assert [adapter.mix.out_channels for adapter in method.adapters] == [12, 12, 12]


@pytest.mark.slow
def test_the_relations_come_closer_to_the_teachers_in_training(distil):
    result = distil(
        ["svd"], "digits@train=128@test=64", epochs=2, train={"batch_size": 16}, svd={"clip_to_task": False, "beta": 100.0}
    )
    losses = [record["terms"]["svd.relation"] for record in result.history]
    assert losses[-1] < 0.7 * losses[0]
