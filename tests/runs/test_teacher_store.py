"""Whole runs with a teacher store: the same numbers, no teacher, and refusals by name."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from kdengine import Comparison, Engine, Registry, SettingsError
from kdengine.data.load import load_data
from kdengine.networks.models import ModelSource
from kdengine.runs.session import Session
from kdengine.runs.store_identity import OF_TRAIN
from kdengine.runs.teacher_store import TeacherStore

DATA = "digits@train=20@test=16"
TRAIN = {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu", "lr": 0.02, "workers": 0}


def network(name, seed=5):
    return ModelSource(name, {"num_classes": 10}, (3, 32, 32), Registry()).create(seed)


def engine(folder, methods, store=None, teacher=None, **more):
    given = {**TRAIN, "data": DATA, **more}
    stored = {} if store is None else {"teacher_store": store}
    return Engine(teacher or network("resnet14"), "resnet8", list(methods), out=folder, **stored, **given)


def rows(result):
    return [{key: value for key, value in row.items() if "second" not in key} for row in result.history]


def same(one, other):
    assert rows(one) == rows(other)
    weights = [load_file(run.folder / "student.safetensors") for run in (one, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


CASES = {
    "logits": (["st"], {}),
    "maps": (["fitnet", "rkd"], {"teacher_store": {"taps": "stages"}}),
    "views": (["mlld"], {}),
    "mixed": (["st"], {"mixup": 0.4, "cutmix": 1.0}),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same_to_the_last_bit_without_with_and_from_a_half_filled_store(case, precision, tmp_path, forwards):
    methods, given = CASES[case]
    more = dict(given)
    store = {"folder": str(tmp_path / "store"), **more.pop("teacher_store", {})}
    shared = {**more, "precision": precision, "epochs": 1}
    plain = engine(tmp_path / "plain", methods, **shared).fit()
    ran = forwards()
    assert ran > 0
    filling = engine(tmp_path / "filling", methods, store, **shared).fit()
    assert forwards() == ran
    full = engine(tmp_path / "full", methods, store, **shared).fit()
    assert forwards() == 0
    for number, file in enumerate(sorted((tmp_path / "store").rglob("epoch-0*/*"))):
        size = file.stat().st_size
        with file.open("r+b") as raw:
            raw.truncate(size // 2 if number % 2 else size // 3)  # as a killed process leaves it
    half = engine(tmp_path / "half", methods, store, **shared).fit()
    assert 0 < forwards() <= ran
    for run in (filling, full, half):
        same(run, plain)


def test_more_epochs_fill_the_rest_and_another_student_reads_what_is_there(tmp_path, forwards):
    store = tmp_path / "store"
    engine(tmp_path / "short", ["st"], store, epochs=1).fit()
    assert forwards() == 3
    long = engine(tmp_path / "long", ["st"], store, epochs=2).fit()
    assert forwards() == 3
    same(long, engine(tmp_path / "plain", ["st"], epochs=2).fit())
    forwards()
    other = {**TRAIN, "data": DATA, "lr": 0.5, "optimizer": "adamw", "teacher_store": store}
    Engine(network("resnet14"), "resnet14", ["rkd"], out=tmp_path / "other", **other).fit()
    assert forwards() == 0


def test_a_run_resumes_within_an_epoch_from_a_store_bit_for_bit(tmp_path, pull, forwards):
    options = {"save_minutes": 1e-9}
    whole = engine(tmp_path / "whole", ["st"], **options).fit()
    part = engine(tmp_path / "part", ["st"], tmp_path / "store", observers=[pull(4)], **options)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        part.fit()
    forwards()
    again = Engine.resume(tmp_path / "part", teacher=network("resnet14")).fit()
    assert forwards() == 2, "the store goes with the run, and has four of its six batches"
    same(again, whole)
    engine(tmp_path / "next", ["st"], tmp_path / "store").fit()
    assert forwards() == 0


def compare(folder, methods, store=None, **more):
    given = {**TRAIN, "data": DATA, "epochs": 1, **more}
    stored = {} if store is None else {"teacher_store": store}
    return Comparison(network("resnet14"), "resnet8", methods, out=folder, **stored, **given)


def weights_of(folder):
    return [load_file(file) for file in sorted(folder.rglob("student.safetensors"))]


def test_a_second_comparison_with_other_methods_never_runs_the_teacher(tmp_path, forwards):
    store = {"folder": str(tmp_path / "store"), "taps": "stages"}
    compare(tmp_path / "first", ["st"], store).fit()
    assert forwards() == 3
    compare(tmp_path / "second", ["at", "rkd"], store).fit()
    assert forwards() == 0


@pytest.mark.slow
def test_a_comparison_of_several_trials_reads_a_store_and_its_lanes_are_the_same(tmp_path, forwards):
    store = {"folder": str(tmp_path / "store"), "taps": "stages"}
    lanes = ["st", "at", "takd", "jacobian"]
    compare(tmp_path / "plain", lanes, trials=2).fit()
    forwards()
    compare(tmp_path / "stored", lanes, store, trials=2).fit()
    assistants = 2 * 3  # those of takd teach in each trial, and are not kept
    assert forwards() == assistants + 2 * 3
    compare(tmp_path / "again", lanes, store, trials=2).fit()
    assert forwards() == assistants
    for run in ("stored", "again"):
        for one, other in zip(weights_of(tmp_path / "plain"), weights_of(tmp_path / run), strict=True):
            assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_several_teachers_are_kept_apart(tmp_path, forwards):
    teachers = [network("resnet14"), network("resnet8", 7)]
    for number, expected in enumerate((6, 0)):
        engine(tmp_path / f"{number}", ["st"], tmp_path / "store", teachers, epochs=1).fit()
        assert forwards() == expected
    engine(tmp_path / "one", ["st"], tmp_path / "store", teachers[0], epochs=1).fit()
    assert forwards() == 0
    assert len(json.loads((tmp_path / "store" / "store.json").read_text())["teachers"]) == 2


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store that a run has filled."""
    base = tmp_path_factory.mktemp("filled")
    engine(base / "run", ["st"], base / "store", epochs=1).fit()
    return base / "store"


CHANGES = {
    "train.batch_size = 8": {"batch_size": 16},
    "train.augment = auto": {"augment": "trivial"},
    "train.crop_scale": {"crop_scale": 0.5},
    "train.color_jitter": {"color_jitter": 0.1},
    "train.erase": {"erase": 0.1},
    "train.mixup = 0.0": {"mixup": 0.2},
    "train.cutmix": {"cutmix": 1.0},
    "train.validation": {"validation": 0.25},
    "train.drop_last = none": {"drop_last": True},
    "train.balanced_sampling = false": {"balanced_sampling": True},
    "train.second_view": {"second_view": "crop"},
    "train.channels_last = true": {"channels_last": False},
    "train.fold_teacher = true": {"fold_teacher": False},
    "train.precision = fp32": {"precision": "bf16"},
    "data.train_images = 20": {"data": "digits@train=16@test=16"},
    "teacher_store.lossy = none": {"teacher_store": {"lossy": "half"}},
    "with the input": {"teacher_input": {"size": 40}},
    "not module:CifarResNet": {"teacher": "resnet20"},
    "with the weights": {"teacher": network},
    "made for seed = 0; this run has 4": {"seed": 4},
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_differs_is_refused_by_its_name_before_anything_is_written(name, filled, tmp_path):
    change = dict(CHANGES[name])
    store = {"folder": str(filled), **change.pop("teacher_store", {})}
    teacher = change.pop("teacher", None)
    teacher = teacher("resnet14", 6) if callable(teacher) else teacher
    if teacher == "resnet20":  # the very weights of a name that the store does not know
        name = "holds what module:CifarResNet showed, not resnet20"
    before = (filled / "store.json").read_bytes()
    with pytest.raises(SettingsError, match="teacher store") as caught:
        engine(tmp_path / "run", ["st"], store, teacher, **change).fit()
    assert name in str(caught.value)
    assert "--teacher-store" in str(caught.value) or "another folder" in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert (filled / "store.json").read_bytes() == before


def test_a_comparison_that_would_be_refused_leaves_no_folder(filled, tmp_path):
    with pytest.raises(SettingsError, match=r"made for seed = 0; this run has 1.*kdengine teach .*--seed 1") as caught:
        compare(tmp_path / "run", ["st"], filled, trials=2).fit()
    assert "-o train.batch_size=8" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_setting_of_batches_is_a_case_above():
    tried = {f"train.{key}" for change in CHANGES.values() for key in change}
    assert {f"train.{name}" for name in OF_TRAIN} - tried == {"train.augment_operations", "train.augment_magnitude"}


def test_other_data_under_the_same_name_is_refused(filled, tmp_path):
    data = load_data(DATA, Registry())
    with pytest.raises(SettingsError, match=r"under data = \w+; this run has data = otherwise"):
        engine(tmp_path / "run", ["st"], filled, data=replace(data, fingerprint="otherwise")).fit()


def test_data_that_cannot_be_told_again_is_refused(tmp_path):
    data = load_data(DATA, Registry())
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    with pytest.raises(SettingsError, match="your own loaders"):
        engine(tmp_path / "run", ["st"], tmp_path / "store").fit([(images, labels)], [(images, labels)])
    settings, unknown = engine(tmp_path / "run", ["st"], tmp_path / "store").settings, replace(data, fingerprint="")
    session = Session.open(settings, Registry(), modules={"teacher": network("resnet14")}, data=unknown)
    with pytest.raises(SettingsError, match="has no fingerprint"):
        TeacherStore.of(session)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({"budget": "2KB"}, r"would need up to [\d.]+KiB more, but teacher_store\.budget is 2\.0KiB"),
        ({"taps": "stage9"}, "stage9"),
        ({"lossy": "top-10"}, "there are 10 classes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(store, message, tmp_path):
    with pytest.raises(Exception, match=message) as caught:
        engine(tmp_path / "run", ["st"], {"folder": str(tmp_path / "store"), **store}).fit()
    assert isinstance(caught.value, SettingsError) or "stage9" in store["taps"]
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr("kdengine.storage.store_folder.StoreFolder.free", 1000)
    with pytest.raises(SettingsError, match="its disk has 1000B left"):
        engine(tmp_path / "run", ["st"], tmp_path / "store").fit()


def test_a_plan_foresees_the_size_and_what_is_there(filled, tmp_path):
    plan = engine(tmp_path / "run", ["st"], filled, epochs=1).plan().describe()["teacher_store"]
    assert (plan["missing"], plan["folder"]) == (0, str(filled))
    more = engine(tmp_path / "run", ["st"], filled, epochs=3).plan().describe()["teacher_store"]
    assert more["bytes"] == 3 * plan["bytes"]
    assert more["missing"] == pytest.approx(2 * plan["bytes"], rel=0.01)
    written = sum(file.stat().st_size for file in filled.rglob("epoch-0*/*"))
    assert 0.7 * plan["bytes"] < written <= plan["bytes"], "the last batch is smaller"
    comparison = compare(tmp_path / "run", ["st", "mlld"], tmp_path / "new", trials=3)
    comparison.plan()
    assert comparison.forecast.missing == comparison.forecast.bytes == 3 * 2 * plan["bytes"]
    assert not (tmp_path / "new").exists()


def test_a_lossy_store_says_so_in_the_run_it_makes(tmp_path):
    for number in range(2):
        store = {"folder": str(tmp_path / "store"), "lossy": "top-3"}
        result = engine(tmp_path / f"{number}", ["st"], store, epochs=1).fit()
        assert result.facts["teacher"]["lossy"] == "top-3"
        assert json.loads((tmp_path / f"{number}" / "manifest.json").read_text())["teacher"]["lossy"] == "top-3"
    exact = engine(tmp_path / "exact", ["st"], epochs=1).fit()
    assert "lossy" not in exact.facts["teacher"]
    assert rows(exact) != rows(result)
    note = json.loads((tmp_path / "store" / "store.json").read_text())
    assert note["batches"]["teacher_store.lossy"] == "top-3"


def test_another_environment_is_told(filled, tmp_path, caplog):
    note = json.loads((filled / "store.json").read_text())
    note["made_under"]["versions"]["torch"] = "1.0"
    other = tmp_path / "store"
    other.mkdir()
    (other / "store.json").write_text(json.dumps(note))
    with caplog.at_level(logging.WARNING):
        engine(tmp_path / "run", ["st"], other, epochs=1).fit()
    assert "The teacher store in" in caplog.text
    assert "torch: 1.0, now" in caplog.text


def test_methods_that_need_no_teacher_make_no_store(tmp_path):
    Engine(None, "resnet8", [], DATA, out=tmp_path / "run", teacher_store=tmp_path / "store", **{**TRAIN, "epochs": 1}).fit()
    assert not (tmp_path / "store").exists()
