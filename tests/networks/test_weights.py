import collections
import copy
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdengine.errors import ModelError
from kdengine.networks.weights import fingerprint_of_file, load_weights, load_weights_of_body


def network(outputs=3, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, outputs))


@pytest.fixture
def trained():
    return network(seed=1)


def loaded(path, model=None):
    model = network() if model is None else model
    load_weights(model, path, "the teacher 'mine'")
    return model


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def refusal(path, model=None):
    with pytest.raises(ModelError) as caught:
        loaded(path, model)
    return str(caught.value)


def test_safetensors_are_loaded(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    assert same(loaded(tmp_path / "w.safetensors"), trained)
    assert not same(network(), trained)


def test_the_student_of_a_run_folder_is_loaded(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "student.safetensors")
    assert same(loaded(tmp_path), trained)
    assert "There is no file of weights" in refusal(tmp_path.parent / "nowhere")


def test_a_folder_without_a_student_is_refused(tmp_path):
    assert refusal(tmp_path).startswith(f"There is no file of weights '{tmp_path}'. Give ")


@pytest.mark.parametrize("holder", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_a_state_dict_is_found_in_a_checkpoint_of_whatever_wrapping(holder, prefix, trained, tmp_path):
    state = collections.OrderedDict((prefix + name, tensor) for name, tensor in trained.state_dict().items())
    torch.save({"epoch": 3, "best": torch.tensor(0.5), holder: state} if holder else state, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), trained)


def test_prefixes_are_taken_off_safetensors_too(trained, tmp_path):
    save_file({f"module.{name}": tensor for name, tensor in trained.state_dict().items()}, tmp_path / "w.safetensors")
    assert same(loaded(tmp_path / "w.safetensors"), trained)


def test_weights_fit_whether_or_not_a_part_is_compiled(trained, tmp_path):
    class Parts(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

    compiled = torch.compile(network(), backend="eager")
    for number, (saved, into) in enumerate([(trained, compiled), (torch.compile(trained, backend="eager"), network())]):
        torch.save(Parts(saved).state_dict(), file := tmp_path / f"{number}.pth")
        loaded(file, Parts(into))
        assert same(into, trained)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_network_whose_own_names_begin_like_a_wrapper_keeps_them(prefix, trained, tmp_path):
    class Holder(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    torch.save({prefix + name: tensor for name, tensor in Holder(trained).state_dict().items()}, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth", Holder(network())), trained)


def test_a_file_in_the_home_folder_is_found(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    assert same(loaded("~/w.pth"), trained)


def test_a_missing_file_is_named():
    where = f"in the current folder, '{os.getcwd()}'"
    assert refusal("nowhere.pth").startswith(f"There is no file of weights 'nowhere.pth' {where}. Give ")


@pytest.mark.parametrize("path", ["a" * 300, "~nobody-at-all/x.pth", "\0"], ids=["long", "home", "zero"])
def test_what_cannot_be_a_path_is_a_file_that_is_missing(path):
    assert "There is no file of weights" in refusal(path)


class Payload:
    ran = False

    def __reduce__(self):
        return (setattr, (Payload, "ran", True))


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(trained, tmp_path):
    torch.save({"state_dict": trained.state_dict(), "extra": Payload()}, tmp_path / "w.pth")
    assert "which may run code when loaded. Save only the state dict" in refusal(tmp_path / "w.pth")
    assert not Payload.ran


def test_a_pickled_network_is_refused_with_the_fix(trained, tmp_path):
    torch.save(trained, tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth").endswith("Save only the state dict: torch.save(model.state_dict(), FILE).")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x08 not weights at all")
    assert f"'{tmp_path / name}'" in refusal(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"lr": 0.1}, {"state_dict": {"0.weight": 3}}])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert "has no state dict, a mapping of names to tensors. Save one:" in refusal(tmp_path / "w.pth")


def test_shapes_that_do_not_fit_are_named_with_both_sizes(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    answer = refusal(tmp_path / "w.safetensors", network(outputs=5))
    assert "do not match the teacher 'mine': '2.weight' is [3, 4] in the file, [5, 4] in the network" in answer
    assert answer.endswith("Name the architecture and number of classes that the weights were trained with.")


def test_missing_and_surplus_names_are_named_and_a_long_list_is_cut(trained, tmp_path):
    state = trained.state_dict()
    state["head.bias"] = state.pop("2.bias")
    torch.save(state, tmp_path / "w.pth")
    answer = refusal(tmp_path / "w.pth")
    assert "'2.bias' is missing" in answer
    assert "'head.bias' does not exist in the network" in answer
    torch.save({f"encoder.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    assert "; and 15 more. Name the" in refusal(tmp_path / "w.pth")


def test_a_network_is_left_as_it_was_when_its_weights_do_not_fit(trained, tmp_path):
    state = trained.state_dict()
    del state["2.bias"]
    torch.save(state, tmp_path / "w.pth")
    model = network()
    refusal(tmp_path / "w.pth", model)
    assert same(model, network())


def test_a_plain_pickle_is_refused(trained, tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Payload()}))
    refusal(tmp_path / "w.pth")
    assert not Payload.ran


def test_a_head_of_another_size_keeps_its_own_weights_and_is_named(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    model, fresh = network(outputs=5), network(outputs=5)
    head = load_weights_of_body(model, tmp_path / "w.safetensors", "the student 'mine'")
    assert (head.path, head.outputs_before, head.outputs) == ("2", 3, 5)
    assert same(model[:2], trained[:2])
    assert same(model[2], fresh[2])


def test_all_is_loaded_where_the_head_fits_unless_it_stands_for_other_classes(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    kept, replaced = network(), network()
    assert load_weights_of_body(kept, tmp_path / "w.safetensors", "mine", classifier="2") is None
    assert same(kept, trained)
    head = load_weights_of_body(replaced, tmp_path / "w.safetensors", "mine", classifier="2", keep_head=False)
    assert (head.path, head.outputs_before, head.outputs) == ("2", 3, 3)
    assert same(replaced[:2], trained[:2])
    assert same(replaced[2], network()[2])


def two_layers(width=4, inputs=6, bias=True):
    return nn.Sequential(nn.Linear(inputs, width), nn.Linear(width, 3, bias=bias))


@pytest.mark.parametrize(
    ("model", "other"),
    [
        pytest.param(two_layers(), two_layers(width=5), id="a layer in the middle"),
        pytest.param(two_layers(), two_layers(inputs=7), id="the inputs of a layer"),
        pytest.param(two_layers(), two_layers(bias=False), id="a head without bias"),
        pytest.param(nn.Linear(4, 3), nn.Linear(4, 5), id="a head without a name"),
    ],
)
def test_only_a_head_may_differ(model, other, tmp_path):
    torch.save(other.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="do not match mine"):
        load_weights_of_body(model, tmp_path / "w.pth", "mine")


def test_a_file_and_a_run_folder_have_the_fingerprint_of_their_bytes(tmp_path):
    save_file(network().state_dict(), tmp_path / "student.safetensors")
    first = fingerprint_of_file(tmp_path)
    assert first == fingerprint_of_file(tmp_path / "student.safetensors")
    save_file(network(seed=1).state_dict(), tmp_path / "student.safetensors")
    assert fingerprint_of_file(tmp_path) != first


class Behind(nn.Module):
    """A network with a part of it under another name, and a head of its own."""

    def __init__(self, body):
        super().__init__()
        self.backbone = body
        self.head = nn.Linear(3, 2)


def test_weights_of_a_backbone_fill_it_and_what_is_left_out_is_named(trained, tmp_path):
    state = {**trained.state_dict(), "fc.weight": torch.zeros(9, 3), "fc.bias": torch.zeros(9)}
    save_file(state, tmp_path / "w.safetensors")
    model = Behind(network(seed=2))
    before = copy.deepcopy(model.head)
    part = load_weights_of_body(model, tmp_path / "w.safetensors", "mine")
    assert str(part) == "'backbone', without 'fc'; all else starts fresh"
    assert same(model.backbone, trained)
    assert same(model.head, before)


def test_weights_that_fill_no_part_whole_or_are_mostly_something_else_are_refused(trained, tmp_path):
    lacking = {name: value for name, value in trained.state_dict().items() if name != next(reversed(trained.state_dict()))}
    mostly_else = {**trained.state_dict(), **{f"more.{number}": torch.zeros(1) for number in range(20)}}
    for state in (lacking, mostly_else):
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(ModelError, match="do not match mine"):
            load_weights_of_body(Behind(network()), tmp_path / "w.safetensors", "mine")
