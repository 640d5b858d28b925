import torch

from kdengine.transfer import constant, moved


def test_on_the_same_device_a_tensor_is_not_copied():
    tensor = torch.arange(3)
    assert moved(tensor, torch.device("cpu")) is tensor
    assert moved(tensor, torch.device("meta")).is_meta


def test_a_constant_is_made_once_and_takes_part_in_a_backward_pass():
    with torch.inference_mode():
        made = constant((0.25, 0.5), torch.device("cpu"))
    assert constant((0.25, 0.5), torch.device("cpu")) is made
    factor = torch.ones(2, requires_grad=True)
    (factor * made).sum().backward()
    assert factor.grad.tolist() == [0.25, 0.5]
