"""Several teachers in settings, session and results."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdengine import Engine, Registry, SettingsError
from kdengine.config.settings import Settings, from_assignments
from kdengine.networks.models import ModelSource
from kdengine.runs.ready_teachers import Ensemble, weights_trained
from kdengine.runs.teachers import named_teachers, networks_given
from kdengine.runs.tuning import Probes, Tuning
from kdengine.storage.runfolder import RunFolder
from kdengine.tasks import Classification
from kdengine.tasks.segmentation import Segmentation

FAST = {"data": "digits@train=24@test=16", "precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 1}


def settings(**values):
    return Settings.checked({"student": "resnet8", **values})


def test_settings_name_the_teachers_and_the_weights_of_each():
    three = settings(teacher="a", further_teachers=["b", "c"], teacher_weights="a.pt", further_teacher_weights=["none"])
    assert three.teachers == ("a", "b", "c")
    assert three.weights_of_teachers == ("a.pt", None, None)
    assert three.taught_by == "a + b + c"
    assert settings(teacher="a", teacher_weights="none").weights_of_teachers == (None,)
    assert settings().teachers == settings().weights_of_teachers == ()
    assert settings(teacher="a").taught_by == "a"
    again = three.with_teacher_weights([None, "b.pt", None])
    assert again.weights_of_teachers == (None, "b.pt", None)
    assert Settings.checked(again.model_dump()) == again
    assert three.without_teacher() == settings()


def test_on_the_command_line_teachers_are_separated_by_commas():
    values = from_assignments(["further_teachers=resnet14,resnet20@x=[1,2]", "further_teacher_weights=none,b.pt"])
    named = settings(teacher="a", **values)
    assert named.teachers == ("a", "resnet14", "resnet20@x=[1,2]")
    assert named.weights_of_teachers == (None, None, "b.pt")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"further_teachers": ["b"]}, "further_teachers = b: these stand beside a first teacher"),
        ({"teacher": "a", "further_teacher_weights": ["b.pt"]}, "names 1 files, but there are 0 teachers beside the first"),
        ({"teacher": "a", "further_teachers": [""]}, "further_teachers"),
    ],
)
def test_what_makes_no_sense_is_refused(values, said):
    with pytest.raises(SettingsError, match=said):
        settings(**values)


def test_a_teacher_that_is_named_again_has_another_seed():
    named = list(named_teachers(settings(teacher="a", further_teachers=["b", "a"])))
    assert [(one.role, one.spec, one.repeats) for one in named] == [
        ("teacher", "a", 0),
        ("teacher 2", "b", 0),
        ("teacher 3", "a", 1),
    ]


def test_networks_may_be_passed_alone_or_in_a_list_with_gaps():
    module = torch.nn.Identity()
    assert networks_given("a") == {"teacher": "a"}
    assert networks_given([None, module]) == {"teacher 2": module}
    assert networks_given(None) == {}


def test_networks_together_say_the_mean_of_their_probabilities():
    first, second = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(0))
    joint = Classification(10).join([first, second * 3])
    expected = (first.double().softmax(1) + (3 * second).double().softmax(1)) / 2
    assert torch.allclose(joint.double().exp(), expected, atol=1e-7)
    huge = Classification(2).join([torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])])
    assert torch.allclose(huge.exp(), torch.tensor([[0.5, 0.5]]))


def test_weights_that_were_trained_go_into_the_settings_beside_those_given():
    three = settings(teacher="a", further_teachers=["b", "c"], further_teacher_weights=["b.pt"])
    facts = {"members": [{"folder": "x"}, {}, {"folder": "y"}]}
    named = weights_trained(facts, three).weights_of_teachers
    assert named == ("x/student.safetensors", "b.pt", "y/student.safetensors")
    assert weights_trained({"folder": "x"}, settings(teacher="a")).teacher_weights == "x/student.safetensors"
    assert weights_trained({}, three) == weights_trained(None, three) == three


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a teacher that is named twice, both of them trained first."""
    folder = tmp_path_factory.mktemp("several") / "run"
    engine = Engine(["resnet8", "resnet8"], "resnet8", ["st"], out=folder, **{**FAST, "teacher_train": {"epochs": 2}})
    return engine.fit()


@pytest.mark.slow
def test_the_facts_of_several_teachers_are_those_of_the_ensemble(trained, digits):
    facts = trained.facts["teacher"]
    members = facts["members"]
    assert facts["name"] == "resnet8 + resnet8"
    assert facts["parameters"] == 2 * members[0]["parameters"]
    assert facts["flops"] == 2 * members[0]["flops"]
    assert members[0]["fingerprint"] != members[1]["fingerprint"]
    assert members[0]["folder"] != members[1]["folder"]
    assert trained.teacher_top1 == facts["top1"] == facts["best_top1"]
    engine = Engine.of(RunFolder(trained.folder).settings())
    test = engine.session().data.test
    probabilities, right, seen = [], 0, 0
    networks = []
    for member in members:
        network = ModelSource("resnet8", {"num_classes": 10}, (3, 32, 32), Registry()).create(0)
        network.load_state_dict(load_file(f"{member['folder']}/student.safetensors"))
        networks.append(network.eval())
    for batch in test.epoch(0):
        with torch.no_grad():
            probabilities = torch.stack([network(batch.x).softmax(1) for network in networks]).mean(0)
        right, seen = right + int((probabilities.argmax(1) == batch.y).sum()), seen + len(batch.y)
    assert facts["top1"] == pytest.approx(100 * right / seen)


def test_the_folder_records_all_teachers_and_repeats_the_run(trained, tmp_path):
    files = RunFolder(trained.folder)
    stored = files.settings()
    assert stored.teachers == ("resnet8", "resnet8")
    manifest = json.loads((trained.folder / "manifest.json").read_text())
    assert [member["name"] for member in manifest["teacher"]["members"]] == ["resnet8", "resnet8"]
    again = Engine.of(stored, tmp_path / "again").fit()
    assert all(member["cached"] for member in again.facts["teacher"]["members"])
    first, second = (load_file(folder / "student.safetensors") for folder in (trained.folder, again.folder))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_notebook_lists_every_teacher(trained):
    assert "resnet8 taught by resnet8 + resnet8 (st)" in repr(trained)
    assert trained._repr_html_().count("<td>teacher</td>") == 3


def test_where_teachers_are_trained_differently_the_settings_stay_open_and_repeat_each(tmp_path):
    vit = "timm:vit_tiny_patch16_224@img_size=32@patch_size=8@depth=1@embed_dim=24@num_heads=2"
    open_train = {key: value for key, value in FAST.items() if key != "lr"}
    plan = Engine(["resnet8", vit], "resnet8", ["st"], **open_train).plan()
    assert plan.settings.train.optimizer == "sgd"
    own = {role: one.settings.optimizer for role, one in plan.training.followed.items()}
    assert own == {"student": "sgd", "teacher": "sgd", "teacher 2": "adamw"}
    again = Engine.of(Settings.checked(plan.settings.model_dump(mode="json", exclude_none=True))).plan()
    assert {role: one.values for role, one in again.training.followed.items()} == {
        role: one.values for role, one in plan.training.followed.items()
    }
    assert plan.settings.own_teacher_training["optimizer"] == "auto"


def test_probes_of_learning_rates_keep_the_rates_of_several_teachers_open_and_of_one_fixed():
    two = settings(teacher="a", further_teachers=["b"], train={"batch_size": 7})
    probes = Probes(Tuning(each=True), [], two).settings
    assert probes.teachers == ("a", "b")
    assert probes.teacher_train["lr"] == "auto"
    assert (probes.teacher_training.lr, probes.teacher_training.batch_size) == (None, 7)
    assert Probes(Tuning(each=True), [], settings(teacher="a")).settings.teacher_train["lr"] == 0.1
    assert Probes(Tuning(), [], two).settings.teachers == ()


def test_networks_that_return_records_speak_together_too():
    class Recording(nn.Module):
        def forward(self, images):
            return {"aux": images[:, :1], "out": images}

    images = torch.randn(2, 3, 4, 4)
    joint = Ensemble([Recording(), Recording()], Segmentation(3))(images)
    torch.testing.assert_close(joint, images.log_softmax(1))
