"""What a script or notebook has set in torch around a run, which must not change what the run computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from kdengine.errors import SettingsError

__all__ = ["apart_from_ambient"]


@contextmanager
def apart_from_ambient() -> Iterator[None]:
    """Gradients on, autocast off, and new tensors on the CPU inside the context; what was set before is restored on exit.

    Raises:
        SettingsError: the default type of new tensors is not float32; it belongs to all threads, so it is not changed here.
    """
    kind = torch.get_default_dtype()
    if kind != torch.float32:
        raise SettingsError(
            f"torch's default dtype is {str(kind).removeprefix('torch.')}, but networks and images must be float32: "
            "torch.set_default_dtype(torch.float32)."
        )
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
