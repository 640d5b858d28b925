import torch


def test_the_parameters_are_as_many_as_published(count):
    assert count("shufflenetv2", 100) == 1_355_528


def published(layers, x, path, halves):
    """A block with the ReLU at the end of its branches, then joining and shuffling, as the paper draws it."""

    def each_channel(x, place):
        maps = layers.conv(x, f"{path}.{place}", stride=2 if halves else 1, padding=1, groups=x.shape[1])
        return layers.norm(maps, f"{path}.{place[:-1]}{int(place[-1]) + 1}")

    def pointwise(x, place):
        return layers.norm(layers.conv(x, f"{path}.{place}"), f"{path}.{place[:-1]}{int(place[-1]) + 1}")

    one, other = (x, x) if halves else x.chunk(2, 1)
    if halves:
        one = pointwise(each_channel(one, "downsample.0"), "downsample.2").clamp(min=0)
    other = pointwise(other, "branch.0").clamp(min=0)
    other = pointwise(each_channel(other, "branch.3"), "branch.5").clamp(min=0)
    return torch.nn.ChannelShuffle(2)(torch.cat((one, other), 1))


def test_blocks_compute_what_the_paper_draws_gradients_included(lively, compute):
    network = lively("shufflenetv2")
    layers = compute(network)
    x = start = torch.randn(2, 116, 6, 6, dtype=torch.float64).relu().requires_grad_()
    for block in (0, 1, 2):
        x = published(layers, x, f"layer2.{block}", halves=block == 0)
    found = network.layer2[:3](start)
    torch.testing.assert_close(found, x)
    assert (x == 0).any()
    pattern = torch.randn_like(x)
    expected, gradient = (torch.autograd.grad((result * pattern).sum(), start)[0] for result in (x, found))
    torch.testing.assert_close(gradient, expected)
