import kdzoo  # noqa: F401  registers the networks with timm
import pytest
import timm
import torch
from torch import nn

from kdengine.networks.flops import count_flops
from kdengine.taps import probe as probing
from kdengine.taps.twin import QuickBatchNorm, copy_to


@pytest.fixture
def forward():
    """What a layer on the meta device gives for a shape, as shape and strides, with or without the shortcut."""

    def run(layer, shape, quick, layout=torch.contiguous_format):
        twin = copy_to("meta", layer)
        image = torch.zeros(shape, device="meta").to(memory_format=layout)
        with torch.no_grad():
            if not quick:
                return twin(image)
            with QuickBatchNorm():
                return twin(image)

    return run


@pytest.mark.parametrize(
    ("layer", "shape", "layout"),
    [
        (nn.BatchNorm2d(4), (2, 4, 5, 6), torch.contiguous_format),
        (nn.BatchNorm2d(4, affine=False), (2, 4, 5, 6), torch.channels_last),
        (nn.BatchNorm1d(4), (2, 4), torch.contiguous_format),
    ],
)
def test_a_normalisation_has_the_shape_that_pytorch_works_out(layer, shape, layout, forward):
    quick, full = (forward(layer.eval(), shape, quick, layout) for quick in (True, False))
    assert (quick.shape, quick.stride(), quick.dtype, quick._version) == (full.shape, full.stride(), full.dtype, full._version)


def test_a_normalisation_of_another_width_is_refused_as_before(forward):
    for quick in (True, False):
        with pytest.raises((RuntimeError, ValueError)):
            forward(nn.BatchNorm2d(4).eval(), (2, 8, 5, 6), quick)


def test_values_and_statistics_off_the_meta_device_are_computed():
    layer, images = nn.BatchNorm2d(4), torch.randn(2, 4, 5, 6)
    with torch.no_grad(), QuickBatchNorm():
        assert layer(images).mean().abs() < 1e-6
        assert layer.num_batches_tracked == 1
        layer.eval()
        assert torch.equal(
            layer(images), nn.functional.batch_norm(images, layer.running_mean, layer.running_var, eps=layer.eps)
        )


def test_a_probe_and_a_count_are_the_same_without_it(monkeypatch):
    def found():
        calls = probing.probe(network, (3, 32, 32)).calls
        facts = [(call.path, call.number, call.started, call.finished, call.output_version) for call in calls]
        flags = [(call.output.shape, call.input_overwritten, call.output_overwritten) for call in calls]
        return facts, flags, count_flops(network, (3, 32, 32))

    network = timm.create_model("resnet8", num_classes=10)
    quick = found()
    monkeypatch.setattr(
        QuickBatchNorm, "__torch_function__", lambda _, func, types, args=(), kwargs=None: func(*args, **kwargs or {})
    )
    assert found() == quick


def test_a_copy_shares_what_the_network_shares_and_nothing_with_it():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].notes = network[1].notes = {}
    network[0].kept = {"a": []}
    copied = copy_to("cpu", network)
    assert copied[0].notes is copied[1].notes
    assert copied[0].notes is not network[0].notes
    assert copied[0].kept == {"a": []}
    assert copied[0].kept["a"] is not network[0].kept["a"]
    assert copied[0]._buffers is not network[0]._buffers
    assert copied[0]._buffers is not copied[1]._buffers


def test_a_copy_is_without_the_users_hooks():
    network = nn.Linear(2, 2)
    network.register_forward_hook(lambda *_: pytest.fail("a hook ran"))
    copy_to("cpu", network)(torch.zeros(1, 2))
