import sys

import pytest

from kdengine.config.specs import Spec, import_factory
from kdengine.errors import DataError, ModelError


@pytest.mark.parametrize(
    ("text", "scheme", "name", "options"),
    [
        ("resnet8", "", "resnet8", {}),
        ("timm:resnet50", "timm", "resnet50", {}),
        (
            "timm:resnet50.a1_in1k@pretrained=true@drop_rate=0.1",
            "timm",
            "resnet50.a1_in1k",
            {"pretrained": True, "drop_rate": 0.1},
        ),
        ("hf-hub:timm/resnet18", "hf-hub", "timm/resnet18", {}),
        ("python:package.module:factory@depth=3", "python", "package.module:factory", {"depth": 3}),
        ("hf:../shared/data/cifar100@label=fine_label", "hf", "../shared/data/cifar100", {"label": "fine_label"}),
        (" digits@train=10 ", "", "digits", {"train": 10}),
        ("timm:vit@a.b=1@a.c=2", "timm", "vit", {"a": {"b": 1, "c": 2}}),
    ],
)
def test_a_spec_has_a_scheme_a_name_and_options(text, scheme, name, options):
    assert Spec.parse(text, ModelError) == Spec(scheme, name, options)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("imagefolder:a@@b@size=8", "a@b", {"size": 8}),
        ("imagefolder:@@a", "@a", {}),
        ("imagefolder:a@@@size=8", "a@", {"size": 8}),
        ("imagefolder:a@root=x@@y", "a", {"root": "x@y"}),
    ],
)
def test_two_at_signs_stand_for_one(text, name, options):
    assert Spec.parse(text, DataError) == Spec("imagefolder", name, options)


def test_the_longest_path_that_exists_is_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "a@b", "a@b@c", "d@@e"):
        (tmp_path / folder).mkdir()
    for text, name, options in (
        ("x:a@b", "a@b", {}),
        ("x:a@b@c", "a@b@c", {}),
        ("x:a@b@size=8", "a@b", {"size": 8}),
        (f"x:{tmp_path}/a@b@c@size=8", f"{tmp_path}/a@b@c", {"size": 8}),
        ("x:a@size=8", "a", {"size": 8}),
        ("x:d@@e@size=8", "d@@e", {"size": 8}),
    ):
        assert Spec.parse(text, DataError) == Spec("x", name, options)
    with pytest.raises(DataError, match="'b/none@c' is not KEY=VALUE"):
        Spec.parse("x:a@b/none@@c", DataError)


@pytest.mark.parametrize("text", ["", "timm:", ":resnet8", ":", "@a=1", "  "])
def test_a_spec_without_a_name_is_refused(text):
    with pytest.raises(DataError, match="names nothing"):
        Spec.parse(text, DataError)


def test_an_option_without_a_value_is_refused_by_name():
    with pytest.raises(ModelError, match="'pretrained' is not KEY=VALUE"):
        Spec.parse("timm:resnet50@pretrained", ModelError)


def test_a_factory_in_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "factory_beside_me.py").write_text("def make(): return 7\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert import_factory("factory_beside_me:make", ModelError)() == 7
    assert sys.path == before


def test_a_module_that_is_missing_is_named():
    with pytest.raises(ModelError, match=r"'no_such_module' cannot be imported: ModuleNotFoundError"):
        import_factory("no_such_module:make", ModelError)


@pytest.mark.parametrize("failure", ["1 / 0", "raise SystemExit(3)", "syntax error"])
def test_a_module_that_fails_is_the_users_error(failure, tmp_path, monkeypatch):
    (tmp_path / "failing_factory.py").write_text(failure + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'failing_factory' cannot be imported"):
        import_factory("failing_factory:make", DataError)


def test_a_factory_that_is_missing_is_answered_with_the_nearest_one():
    with pytest.raises(ModelError, match="Did you mean 'Linear'"):
        import_factory("torch.nn:Linaer", ModelError)


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn:", ":make", "torch:__version__"])
def test_what_names_no_callable_is_refused(name):
    with pytest.raises(ModelError, match="is not a callable"):
        import_factory(name, ModelError)
