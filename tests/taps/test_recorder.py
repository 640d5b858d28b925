import copy
import io
import pickle

import kdzoo  # noqa: F401  (registers the CIFAR networks with timm)
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kdengine.errors import TapError
from kdengine.taps import Anatomy, Recorder


@pytest.fixture
def net():
    torch.manual_seed(0)
    return timm.create_model("resnet14").eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def drawn(model):
    """Weights and statistics of every normalisation drawn, so that no branch is zero and signs are mixed."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.2, 0.6),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return model


def resnet18s():
    yield "timm", drawn(timm.create_model("resnet18", num_classes=10, zero_init_last=False))
    yield "torchvision", drawn(torchvision.models.resnet18(num_classes=10))


def sums_by_hand(model, x):
    """The residual sum of the last block of each stage of a ResNet-18, from its layers and without anything in place."""
    x = F.max_pool2d(F.relu(model.bn1(model.conv1(x))), 3, 2, 1)
    sums = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            total = out + (x if block.downsample is None else block.downsample(x))
            x = F.relu(total)
        sums.append(total)
    return sums


def hooks_on(model):
    modules = list(model.modules())
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def counted(model):
    """Hooks that count every module's forward, put there before any recorder comes."""
    counts = {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, args, name=name: counts.update({name: counts.get(name, 0) + 1}))
    return counts


class Functional(nn.Module):
    """Residual blocks written with in-place functions, in a list that the network walks itself."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

        def forward(self, *, x):
            out = F.relu(self.conv1(x), inplace=True)
            out = self.conv2(out)
            out += x
            return out.relu_()

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)
        self.blocks = nn.ModuleList(self.Block(4) for _ in range(4))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for number, block in enumerate(self.blocks):
            x = block(x=x if number != 2 else torch.relu_(self.down(x)))
        return self.fc(x.mean((2, 3)))

    def by_hand(self, x):
        x, pres = F.relu(self.stem(x)), []
        for number, block in enumerate(self.blocks):
            x = F.relu(self.down(x)) if number == 2 else x
            pres.append(block.conv2(F.relu(block.conv1(x))) + x)
            x = F.relu(pres[-1])
        return pres


# what is before the activation


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_before_the_activation_is_its_true_input_with_its_gradients(name, training):
    model = dict(resnet18s())[name].train(training)
    oracle = copy.deepcopy(model)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with Recorder(model, ["stages", "stage1.pre", "stage2.pre", "stage3.pre", "stage4.pre"]) as recorder:
        trace = recorder(x)
    expected = sums_by_hand(oracle, x)
    for number, total in enumerate(expected, 1):
        assert torch.equal(trace[f"stage{number}.pre"], total)
        assert torch.equal(trace[f"stage{number}"], F.relu(total))
        assert trace[f"stage{number}.pre"].min() < 0 < trace[f"stage{number}.pre"].max()
    trace["stage2.pre"].square().sum().backward()
    expected[1].square().sum().backward()
    for (path, mine), theirs in zip(model.named_parameters(), oracle.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None) == (not path.startswith(("conv1", "bn1", "layer1", "layer2")))
        assert mine.grad is None or torch.allclose(mine.grad, theirs.grad, rtol=1e-4, atol=1e-3)


def test_a_tap_does_not_change_what_the_network_computes():
    for _, model in resnet18s():
        model.eval()
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
        with Recorder(model, ["stages", "stage2.pre", "layer1.0.bn1", "layer3.1.conv2:in", "embedding"]) as recorder:
            assert torch.equal(recorder(x).logits, model(x))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_what_an_inplace_relu_or_sum_overwrites_is_kept(training):
    model = drawn(timm.create_model("resnet18", zero_init_last=False)).train(training)
    oracle = copy.deepcopy(model)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with Recorder(model, ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.act2:in"]) as recorder:
        trace = recorder(x)
    stem = oracle.bn1(oracle.conv1(x))
    pooled, block = F.max_pool2d(F.relu(stem), 3, 2, 1), oracle.layer1[0]
    first = block.bn1(block.conv1(pooled))
    second = block.bn2(block.conv2(F.relu(first)))
    for name, value in {
        "bn1": stem,
        "layer1.0.bn1": first,
        "layer1.0.bn2": second,
        "layer1.0.act2:in": second + pooled,
    }.items():
        assert torch.equal(trace[name], value), name
        assert value.min() < 0


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_before_an_activation_written_as_a_function_is_its_true_input(training):
    torch.manual_seed(0)
    model = Functional().train(training)
    x = torch.randn(2, 3, 16, 16)
    anatomy = Anatomy.of(model, (3, 16, 16))
    taps = ["stage1.pre", "stage2.pre", *(f"blocks.{number}.relu():in#1" for number in range(4)), "relu()#1"]
    with Recorder(model, taps, anatomy) as recorder:
        trace = recorder(x)
    expected = model.by_hand(x)
    assert str(anatomy.canonical["stage2.pre"]) == "blocks.3.relu():in#1"
    assert torch.equal(trace["stage2.pre"], expected[3])
    assert torch.equal(trace["stage1.pre"], expected[1])
    for number in range(4):
        assert torch.equal(trace[f"blocks.{number}.relu():in#1"], expected[number])
        assert expected[number].min() < 0
    assert torch.equal(trace["relu()#1"], F.relu(model.down(F.relu(expected[1]))))
    trace["stage2.pre"].sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if not name.startswith("fc"))


def test_what_dropout_overwrites_in_training_is_kept():
    model = nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5, inplace=True), nn.Linear(64, 5)
    )
    x = torch.randn(2, 3, 8, 8)
    with Recorder(model.train(), ["1", "embedding"]) as recorder:
        trace = recorder(x)
    assert torch.equal(trace["1"], model[0](x).mean((2, 3), keepdim=True))
    dropped = trace["embedding"] == 0
    assert dropped.any()
    assert not dropped.all()


# the guards


def test_an_overwriting_that_the_probe_could_not_foresee_is_an_error():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            out = self.conv(x)
            return out.mul_(2) if self.training else out * 2

    with (
        Recorder(Moody().train(), ["conv"]) as recorder,
        pytest.raises(TapError, match=r"'conv' \(conv\) was overwritten in place"),
    ):
        recorder(torch.rand(1, 3, 4, 4))


def test_a_module_called_twice_is_an_error_until_a_call_is_chosen():
    model = torchvision.models.resnet18(num_classes=5).eval()
    x = torch.randn(1, 3, 32, 32)
    with Recorder(model, ["layer1.0.relu"]) as recorder, pytest.raises(TapError, match=r"'layer1\.0\.relu' is ambiguous"):
        recorder(x)
    with Recorder(model, ["layer1.0.relu#0", "layer1.0.relu#1", "layer1.0"]) as recorder:
        trace = recorder(x)
    assert torch.equal(trace["layer1.0.relu#1"], trace["layer1.0"])
    assert not torch.equal(trace["layer1.0.relu#0"], trace["layer1.0.relu#1"])


def test_a_tap_that_does_not_fire_is_an_error_and_never_a_stale_tensor():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.sometimes = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.take = True

        def forward(self, x):
            x = self.always(x)
            return self.sometimes(x) if self.take else x

    model, x = Branch(), torch.rand(1, 3, 4, 4)
    with Recorder(model, ["always", "sometimes"]) as recorder:
        assert "sometimes" in recorder(x)
        model.take = False
        with pytest.raises(TapError, match=r"'sometimes' \(sometimes\) did not fire in this forward"):
            recorder(x)
        model.take = True
        assert torch.equal(recorder(2 * x)["sometimes"], model(2 * x))


def test_a_forward_outside_the_recorder_is_not_recorded(net, images):
    with Recorder(net, ["layer1"], stop=True) as recorder:
        first = recorder(images)["layer1"]
        assert net(2 * images).shape == (2, 10)
        assert torch.equal(recorder(images)["layer1"], first)


def test_an_unknown_name_is_an_error_before_anything_runs(net, images):
    counts = counted(net)
    anatomy = Anatomy.of(net, (3, 32, 32), "resnet14")
    with pytest.raises(TapError, match=r"Did you mean 'layer2.0.conv1'.*'kdengine inspect resnet14' lists all taps"):
        Recorder(net, ["layer2.0.cnv1"], anatomy).__enter__()
    with Recorder(net, ["layer1", "layer2.0.cnv1"]) as recorder, pytest.raises(TapError, match="Did you mean"):
        recorder(images)
    assert counts == {}
    assert hooks_on(net) == len(list(net.modules()))


def test_taps_of_another_network_are_an_error_and_leave_no_hooks(net):
    points = Anatomy.of(Functional(), (3, 16, 16)).resolve_all(["stem", "blocks.1"])
    with (
        pytest.raises(TapError, match="has no module 'blocks"),
        Recorder(net, {"fc": Anatomy.of(net, (3, 32, 32)).resolve("fc")["fc"], **points}),
    ):
        pass
    assert hooks_on(net) == 0


def test_a_recorder_records_only_inside_with(net, images):
    recorder = Recorder(net, ["layer1"])
    with pytest.raises(TapError, match="Call it inside 'with"):
        recorder(images)


def test_a_recorder_can_be_used_again_but_not_inside_itself(net, images):
    recorder = Recorder(net, ["layer1"])
    for _ in range(2):
        with recorder:
            assert recorder(images)["layer1"].shape == (2, 16, 32, 32)
            with pytest.raises(TapError, match="already in use"), recorder:
                pass
            assert "layer1" in recorder(images)
        assert hooks_on(net) == 0


def test_a_recorder_without_a_tensor_to_learn_from_is_an_error(net):
    with Recorder(net, ["layer1"]) as recorder, pytest.raises(TapError, match="got no tensor"):
        recorder("images")


# stopping early


def test_stopping_ends_the_forward_after_the_deepest_tap(net, images):
    counts = counted(net)
    with Recorder(net, ["layer2.0.conv1", "layer1"], stop=True) as recorder:
        trace = recorder(images)
    assert counts["layer2.0.conv1"] == 1
    assert list(trace) == ["layer2.0.conv1", "layer1"]
    for later in ("layer2.0.bn1", "layer2.1", "layer3", "fc"):
        assert later not in counts
    with pytest.raises(TapError, match="stopped before the logits"):
        _ = trace.logits


def test_stopping_at_an_input_does_not_run_the_module(net, images):
    ran = []
    net.layer2.register_forward_hook(lambda *_: ran.append("layer2"))
    expected = net.layer1(net.act1(net.bn1(net.conv1(images))))
    with Recorder(net, ["layer2:in"], stop=True) as recorder:
        assert torch.equal(recorder(images)["layer2:in"], expected)
    assert ran == []


def test_stopping_at_a_function_ends_the_forward_there():
    model, x = Functional(), torch.randn(2, 3, 16, 16)
    anatomy = Anatomy.of(model, (3, 16, 16))
    counts = counted(model)
    with Recorder(model, ["stage1.pre", "relu()#0"], anatomy, stop=True) as recorder:
        trace = recorder(x)
    assert torch.equal(trace["stage1.pre"], model.by_hand(x)[1])
    counts.clear()
    with Recorder(model, ["stage1.pre"], anatomy, stop=True) as recorder:
        recorder(x)
    assert counts["blocks.1.conv2"] == 1
    assert "down" not in counts
    assert "blocks.2" not in counts


@pytest.mark.parametrize("taps", [["layer1", "logits"], ["logits"], []])
def test_stopping_goes_on_to_the_logits_where_they_are_wanted(net, images, taps):
    with Recorder(net, taps, stop=True) as recorder:
        assert torch.equal(recorder(images).logits, net(images))


def test_a_stopped_forward_still_gives_gradients(net, images):
    with Recorder(net.train(), ["layer1"], stop=True) as recorder:
        recorder(images)["layer1"].sum().backward()
    assert net.conv1.weight.grad is not None
    assert net.layer2[0].conv1.weight.grad is None


def test_a_network_that_catches_exceptions_does_not_catch_the_stop():
    class Guarded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.caught = 0

        def forward(self, x):
            try:
                return self.conv(x)
            except Exception:
                self.caught += 1
                return x

    model = Guarded()
    with Recorder(model, ["conv"], stop=True) as recorder:
        recorder(torch.rand(1, 3, 4, 4))
    assert model.caught == 0


# nothing is left behind


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_untouched(model, before, attributes):
    assert hooks_on(model) == 0
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert [
        len(module._forward_hooks_with_kwargs) + len(module._forward_pre_hooks_with_kwargs) for module in model.modules()
    ] == [0 for _ in model.modules()]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("taps", [["stages", "stage2.pre", "embedding"], ["stage1"]])
@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("make", [lambda: timm.create_model("resnet8"), Functional])
def test_nothing_is_left_on_the_network(make, taps, stop, images):
    model = make().eval()
    before, attributes = state_of(model), [sorted(vars(module)) for module in model.modules()]
    with Recorder(model, taps, stop=stop) as recorder:
        recorder(images)
        assert hooks_on(model) > 0
    assert_untouched(model, before, attributes)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images), pickle.loads(pickle.dumps(model))(images))
    torch.save(model.state_dict(), io.BytesIO())


def test_nothing_is_left_after_an_exception_in_the_forward(net, images):
    before, attributes = state_of(net), [sorted(vars(module)) for module in net.modules()]
    anatomy = Anatomy.of(net, (3, 32, 32))
    with pytest.raises(RuntimeError), Recorder(net, ["layer1", "fc:in"], anatomy) as recorder:
        recorder(images[:, :1])
    assert_untouched(net, before, attributes)


def test_after_an_exception_the_next_forward_is_recorded_afresh(images):
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.fail = True

        def forward(self, x):
            x = F.relu(self.a(x))
            if self.fail and not x.is_meta:
                raise ValueError("no")
            return torch.relu(self.b(x))

    model = Once()
    with Recorder(model, ["a", "b", "relu()#1"]) as recorder:
        with pytest.raises(ValueError, match="no"):
            recorder(images)
        model.fail = False
        trace = recorder(2 * images)
    assert torch.equal(trace["a"], model.a(2 * images))
    assert torch.equal(trace["relu()#1"], model(2 * images))


def test_hooks_of_the_user_survive_and_see_one_forward(net, images):
    seen = []
    net.layer1.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    with Recorder(net, ["layer1", "stage1.pre"]) as recorder:
        recorder(images)
    assert seen == [(2, 16, 32, 32)]
    assert hooks_on(net) == 1


def test_the_trace_holds_no_reference_to_what_was_not_tapped(net, images):
    with Recorder(net, ["layer1"]) as recorder:
        recorder(images)
        assert recorder._captured == {}
        assert recorder._calls == {}


# wrappers, nesting, inputs


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("wrap", [Wrapped, lambda model: torch.compile(model, backend="eager")], ids=["module.", "_orig_mod."])
def test_inside_wrappers_the_bare_names_are_right(images, wrap):
    model = timm.create_model("resnet8").eval()
    taps = ["layer2.0.conv1", "stage3.pre"]
    with torch.no_grad():
        with Recorder(model, taps) as recorder:
            bare = recorder(images)
        with Recorder(wrap(model), taps) as recorder:
            wrapped = recorder(images)
    for name in bare:
        assert torch.allclose(bare[name], wrapped[name], atol=1e-5)
    assert hooks_on(model) == 0


def test_recorders_on_one_network_do_not_disturb_each_other(net, images):
    with Recorder(net, ["stages", "stage1.pre"]) as outer:
        first = outer(images)
        with Recorder(net, ["layer1.0.conv1", "layer1"], stop=True) as inner:
            second = inner(2 * images)
            again = outer(images)
            third = inner(2 * images)
        last = outer(images)
    assert all(torch.equal(first[name], again[name]) and torch.equal(first[name], last[name]) for name in first)
    assert all(torch.equal(second[name], third[name]) for name in second)
    assert not torch.equal(first["stage1"], second["layer1"])
    assert hooks_on(net) == 0


def test_a_recorder_may_run_inside_the_forward_of_another(images):
    teacher = timm.create_model("resnet8").eval()

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model("resnet8").eval()

        def forward(self, x):
            with Recorder(teacher, ["stage3.pre"], stop=True) as recorder:
                return self.net(x) + recorder(x)["stage3.pre"].mean()

    student = Student()
    with Recorder(student, ["net.layer3", "stage1"]) as recorder:
        trace = recorder(images)
    assert torch.equal(trace.logits, student(images))
    assert torch.equal(trace["net.layer3"], student.net.forward_features(images))


def test_inputs_given_by_keyword_are_recorded(images):
    class Inner(nn.Module):
        def forward(self, *, scale, x, mask=None):
            return scale * x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.inner = nn.Conv2d(3, 4, 1), Inner()

        def forward(self, x, flag=False):
            return self.inner(scale=2.0, mask=None, x=self.conv(x))

    model = Outer()
    with Recorder(model, ["inner:in", "inner"]) as recorder:
        trace = recorder(x=images, flag=True)
    assert torch.equal(trace["inner:in"], model.conv(images))
    assert torch.equal(trace["inner"], 2 * model.conv(images))


def test_the_first_tensor_of_a_tuple_or_a_record_is_recorded(images):
    class Pair(nn.Module):
        def forward(self, x):
            return None, (2 * x, x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return {"loss": x.sum(), "logits": self.pair(x)[1][1].mean((2, 3))}

    with Recorder(Net(), ["pair", "logits"]) as recorder:
        trace = recorder(images)
    assert torch.equal(trace["pair"], 2 * images)
    assert torch.equal(trace["logits"], images.mean((2, 3)))
    assert trace["logits"] is trace.logits


# how tensors are handed over


def test_a_tap_answers_to_the_name_that_it_was_asked_by(net, images):
    taps = ["stage-1", "layer2.-1", "layer1:out", "fc#0", "layer2.0.conv1:in"]
    with Recorder(net, taps) as recorder:
        trace = recorder(images)
    assert list(trace) == ["stage3", "layer2.1", "layer1:out", "fc#0", "layer2.0.conv1:in"]
    assert all(tap in trace and trace[tap] is not None for tap in taps)
    assert trace["stage-1"] is trace["stage3"]
    assert trace["layer2.-1"] is trace["layer2.1"]
    with pytest.raises(TapError, match=r"'layer2.1.conv1' was not recorded\..*Recorded: stage3, layer2.1,.*Add it to taps"):
        trace["layer2.1.conv1"]


def test_globs_record_every_match(net, images):
    with Recorder(net, ["layer*", "layer2.*.conv2:in"]) as recorder:
        assert list(recorder(images)) == ["layer1", "layer2", "layer3", "layer2.0.conv2:in", "layer2.1.conv2:in"]


def test_under_autocast_everything_is_handed_over_in_float32(net, images):
    with (
        torch.autocast("cpu", torch.bfloat16),
        Recorder(net, ["stages", "stage1.pre", "layer1.0.conv1", "embedding", "logits"]) as recorder,
    ):
        trace = recorder(images)
    assert net(images).dtype == torch.float32
    assert {trace[name].dtype for name in trace} == {torch.float32}
    assert trace.logits.dtype == torch.float32
    assert torch.equal(
        trace["layer1.0.conv1"], trace["layer1.0.conv1"].bfloat16().float()
    )  # the forward itself did run in bf16
    with Recorder(net.double(), ["stage1"]) as recorder:
        trace = recorder(images.double())
        assert trace["stage1"].dtype == trace.logits.dtype == torch.float32


def test_whole_numbers_are_left_whole():
    class Index(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    with Recorder(nn.Sequential(nn.Flatten(), Index()), ["1"]) as recorder:
        assert recorder(torch.rand(2, 3, 4, 4))["1"].dtype == torch.int64


def test_channels_last_stages_are_handed_over_as_maps():
    model = torchvision.models.swin_t(num_classes=5).eval()
    with torch.no_grad(), Recorder(model, ["stages", "embedding"]) as recorder:
        trace = recorder(torch.rand(1, 3, 64, 64))
    shapes = [tuple(trace[f"stage{number}"].shape) for number in range(1, 5)]
    assert shapes == [(1, 96, 16, 16), (1, 192, 8, 8), (1, 384, 4, 4), (1, 768, 2, 2)]
    assert trace["embedding"].shape == (1, 768)


def test_the_values_of_channels_last_stages_are_at_their_places():
    model = torchvision.models.swin_t(num_classes=5).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), Recorder(model, ["stage2"]) as recorder:
        trace = recorder(x)
        assert torch.equal(trace["stage2"], model.features[:4](x).permute(0, 3, 1, 2))


@pytest.mark.parametrize(("name", "prefix"), [("test_vit", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_tokens_are_handed_over_as_maps_as_timm_itself_does(name, prefix):
    model = timm.create_model(name, num_classes=5).eval()
    assert model.num_prefix_tokens == prefix
    x = torch.rand(2, *model.pretrained_cfg["input_size"])
    with torch.no_grad(), Recorder(model, ["stages", "embedding"]) as recorder:
        trace = recorder(x)
        expected = model.forward_intermediates(x, intermediates_only=True)
    assert len(expected) == len(list(trace)) - 1
    for number, theirs in enumerate(expected, 1):
        assert torch.allclose(trace[f"stage{number}"], theirs, atol=1e-5)
    assert trace["embedding"].shape == (2, model.embed_dim)


def test_tokens_of_a_transformer_of_torchvision_are_handed_over_as_maps():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    with Recorder(model.eval(), ["stage2", "encoder.layers.encoder_layer_1", "embedding"]) as recorder:
        trace = recorder(torch.rand(2, 3, 32, 32))
    tokens = trace["encoder.layers.encoder_layer_1"]
    assert tokens.shape == (2, 17, 8)
    assert torch.equal(trace["stage2"], tokens[:, 1:].transpose(1, 2).reshape(2, 8, 4, 4))
    assert torch.equal(trace["embedding"], model.encoder.ln(tokens)[:, 0])


def test_a_convolution_as_classifier_receives_the_pooled_embedding():
    model = torchvision.models.squeezenet1_1(num_classes=5).eval()
    x = torch.rand(2, 3, 64, 64)
    with Recorder(model, ["embedding"]) as recorder:
        assert torch.allclose(recorder(x)["embedding"], model.features(x).mean((2, 3)), atol=1e-6)


def test_the_recorded_network_may_be_in_channels_last_memory(images):
    model = drawn(timm.create_model("resnet18", zero_init_last=False)).eval()
    with Recorder(model, ["stage2.pre", "stage4"]) as recorder:
        plain = recorder(images)
    model.to(memory_format=torch.channels_last)
    with Recorder(model, ["stage2.pre", "stage4"]) as recorder:
        last = recorder(images.to(memory_format=torch.channels_last))
    for name in plain:  # kernels of another layout round in another order
        assert (plain[name] - last[name]).abs().max() < 1e-5 * plain[name].abs().max()


def test_a_teacher_in_inference_mode_is_recorded_too(net, images):
    with torch.inference_mode(), Recorder(net, ["stage2", "stage2.pre"]) as recorder:
        trace = recorder(images)
        assert torch.equal(F.relu(trace["stage2.pre"]), trace["stage2"])


def test_a_single_tap_may_be_given_as_text(net, images):
    with Recorder(net, "stage1") as recorder:
        assert list(recorder(images)) == ["stage1"]


def test_taps_of_a_module_of_ones_own_are_not_looked_up_on_the_command_line(net, images):
    with (
        pytest.raises(TapError, match=r"has no module 'no'\. .*Anatomy\.of\(module, \(C, H, W\)\)\.canonical"),
        Recorder(net, ["no"]) as it,
    ):
        it(images)
