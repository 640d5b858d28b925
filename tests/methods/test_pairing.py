import pytest
import timm
import torch

from kdengine import Anatomy, Distiller, Recorder, Registry, TapError
from kdengine.methods.pairing import match_places, read_taps

SIZE = (3, 32, 32)


class Reader(Distiller):
    """Reads what it is told to."""

    name = "reader"
    taps = ("stage1", "stage2")

    def forward(self, step):
        return {"loss": step.student.logits.mean()}


class Hinted(Reader):
    """Reads one tap in a stage of its own, and another one, or none, later."""

    taps = ("stage2",)

    def taps_in(self, phase):
        return {"hint": self.options.taps or self.taps, "silent": None, "joint": ("logits",)}[phase]


@pytest.fixture(scope="module")
def anatomies():
    Registry().model("resnet8")  # registers the zoo with timm
    names = ("resnet8", "resnet18", "vit_tiny_patch16_224")
    made = {name: timm.create_model(name, num_classes=10, **({"img_size": 32} if "vit" in name else {})) for name in names}
    return {name: (model.eval(), Anatomy.of(model, SIZE, name)) for name, model in made.items()}


@pytest.fixture
def read(anatomies):
    def binding(distiller, student="resnet8", teacher="resnet8", phase="joint"):
        return read_taps(distiller, phase, anatomies[student][1], anatomies[teacher][1])

    return binding


@pytest.fixture
def traces(anatomies):
    """What a binding hands over of a real forward, and the trace of all stages beside it."""

    def record(binding, student="resnet8", teacher="resnet8"):
        x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))
        views = []
        for name, points, view in (
            (student, binding.student, binding.of_student),
            (teacher, binding.teacher, binding.of_teacher),
        ):
            model, anatomy = anatomies[name]
            with torch.no_grad(), Recorder(model, points, anatomy) as recorder:
                views.append(view(recorder(x)))
            with torch.no_grad(), Recorder(model, ["stages", "embedding"], anatomy) as recorder:
                views.append(recorder(x))
        return views

    return record


def test_a_tap_is_read_under_its_name_on_both_sides(read, traces):
    binding = read(Reader())
    assert binding.names == (("stage1", "stage1"), ("stage2", "stage2"))
    student, everything, teacher, _ = traces(binding)
    assert torch.equal(student["stage2"], everything["stage2"])
    assert torch.equal(teacher["stage1"], everything["stage1"])


def test_the_two_sides_may_differ(read, traces):
    binding = read(Reader(taps=["stage1=stage2", "stage2=stage3"]))
    assert binding.names == (("stage1", "=stage2"), ("stage2", "stage3"))
    student, everything, teacher, _ = traces(binding)
    assert torch.equal(student["stage1"], everything["stage1"])
    assert torch.equal(teacher["stage1"], everything["stage2"]), "found under the name that the class declares"
    assert torch.equal(teacher["stage2"], everything["stage3"]), "found under the name that the class declares"
    assert torch.equal(teacher[binding.names[0][1]], everything["stage2"])


def test_taps_put_in_place_of_declared_ones_are_found_under_both_names(read, traces):
    binding = read(Hinted(taps="layer3.0.conv1"), phase="hint")
    student, _, _, _ = traces(binding)
    assert torch.equal(student["stage2"], student["layer3.0.conv1"])
    assert student["stage2"].shape == (2, 64, 8, 8)


def test_taps_that_change_places_are_handed_over_as_declared_and_paired_as_given(read, traces):
    binding = read(Reader(taps=["stage2", "stage3"]))
    student, everything, teacher, _ = traces(binding)
    assert torch.equal(student["stage1"], everything["stage2"])
    assert torch.equal(student["stage2"], everything["stage3"])
    shapes = [(student[here].shape[1:], teacher[there].shape[1:]) for here, there in binding.names]
    assert shapes == [((32, 16, 16),) * 2, ((64, 8, 8),) * 2]
    assert [name.removeprefix("=") for name, _ in binding.names] == ["stage2", "stage3"]


def test_two_taps_may_be_swapped(read, traces):
    student, everything, _, _ = traces(read(Reader(taps=["stage2", "stage1"])))
    assert torch.equal(student["stage1"], everything["stage2"])
    assert torch.equal(student["stage2"], everything["stage1"])


def test_one_tap_may_stand_in_for_two(read, traces):
    student, everything, _, _ = traces(read(Reader(taps=["stage3", "stage3"])))
    assert torch.equal(student["stage1"], everything["stage3"])
    assert torch.equal(student["stage2"], everything["stage3"])


def test_another_number_of_taps_is_read_under_its_own_names(read, traces):
    binding = read(Reader(taps=["stage2", "stage3", "embedding"]))
    assert binding.names == (("stage2", "stage2"), ("stage3", "stage3"), ("embedding", "embedding"))
    student, everything, _, _ = traces(binding)
    assert torch.equal(student["stage2"], everything["stage2"])
    assert "stage1" not in student


def test_the_taps_of_one_training_stage_are_not_taken_for_those_of_another(read, traces):
    hint, joint = read(Hinted(), phase="hint"), read(Hinted(), phase="joint")
    assert hint.names == (("stage2", "stage2"),)
    assert joint.names == (("logits", "logits"),)
    student, _, _, _ = traces(joint)
    with pytest.raises(TapError, match="'stage2' was not recorded"):
        student["stage2"]


def test_a_method_that_is_silent_in_a_stage_reads_nothing(read):
    assert read(Hinted(), phase="silent") is None


def test_all_stages_are_read_where_both_have_as_many(read):
    binding = read(Reader(taps="stages"))
    assert binding.names == tuple((f"stage{n}", f"stage{n}") for n in (1, 2, 3))


def test_different_numbers_of_stages_are_matched_by_size_and_depth(read, anatomies):
    student, teacher = anatomies["resnet8"][1].num_stages, anatomies["resnet18"][1].num_stages
    assert (student, teacher) == (3, 4)
    binding = read(Reader(taps="stages"), teacher="resnet18")
    assert binding.names == (("stage1", "stage1"), ("stage2", "stage2"), ("stage3", "stage4"))  # 32, 16, 8 and 8, 4, 2, 1
    assert list(binding.teacher) == ["stage1", "stage2", "stage4"], "what is not paired is not recorded"
    backwards = read(Reader(taps="stages"), student="resnet18", teacher="resnet8")
    assert backwards.names == (("stage1", "stage1"), ("stage2", "stage2"), ("stage4", "stage3"))


def test_a_negative_stage_is_the_last_on_each_side(read, traces):
    binding = read(Hinted(taps="stage-1"), teacher="resnet18", phase="hint")
    assert binding.names == (("stage3", "stage4"),)
    student, everything, teacher, deep = traces(binding, teacher="resnet18")
    assert torch.equal(student["stage2"], everything["stage3"])
    assert torch.equal(student["stage-1"], everything["stage3"])
    assert torch.equal(teacher["stage-1"], deep["stage4"])


def test_globs_are_read_from_shallow_to_deep(read):
    binding = read(Reader(taps="layer*.0.conv1"))
    assert binding.names == tuple((f"layer{n}.0.conv1", f"layer{n}.0.conv1") for n in (1, 2, 3))


def test_stages_meet_the_blocks_of_a_transformer_by_depth(read, traces):
    binding = read(Reader(taps="stages=blocks.*"), teacher="vit_tiny_patch16_224")
    assert binding.names == (("stage1", "blocks.3"), ("stage2", "blocks.7"), ("stage3", "blocks.11"))
    _, _, teacher, _ = traces(binding, teacher="vit_tiny_patch16_224")
    assert list(teacher.keys()) == ["blocks.3", "blocks.7", "blocks.11"]


def test_an_unknown_tap_is_answered_with_the_network_and_the_nearest(read):
    with pytest.raises(TapError, match=r"resnet8 has no module 'layer2\.0\.cnv1'\. Did you mean 'layer2\.0\.conv1'"):
        read(Reader(taps="layer2.0.cnv1"))
    with pytest.raises(TapError, match="resnet18 has no module"):
        read(Reader(taps="stage1=layer9.0"), teacher="resnet18")


def test_a_stage_that_only_one_side_has_is_refused(read):
    with pytest.raises(TapError, match="resnet8 has no 'stage4'"):
        read(Reader(taps="stage4"), teacher="resnet18")


@pytest.mark.parametrize("tap", ["a=b=c", "=stage1", "stage1="])
def test_a_pair_that_is_none_is_refused(tap, read):
    with pytest.raises(TapError, match="is not a tap"):
        read(Reader(taps=[tap]))


def test_either_side_may_have_more_places_and_they_meet_by_name():
    short, long = [("s1", 32.0), ("s2", 16.0)], [("t1", 32.0), ("t2", 16.0), ("t3", 8.0)]
    assert match_places(short, long, "x") == [("s1", "t1"), ("s2", "t3")]
    assert match_places(long, short, "x") == [("t1", "s1"), ("t3", "s2")]


def test_stages_of_a_cnn_meet_every_third_block_of_a_transformer(read):
    blocks = read(Reader(taps="stages"), student="resnet18", teacher="vit_tiny_patch16_224").names
    assert blocks == tuple((f"stage{n}", f"stage{3 * n}") for n in range(1, 5))


@pytest.mark.parametrize(("student", "teacher", "side"), [([], [("a", 1.0)], "the student"), ([("a", 1.0)], [], "the teacher")])
def test_a_side_without_anything_to_match_is_named(student, teacher, side):
    with pytest.raises(TapError, match=rf"at: 'stages' matches nothing in {side}"):
        match_places(student, teacher, "at: 'stages'")
