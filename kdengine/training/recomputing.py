"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdengine.errors import SettingsError

__all__ = ["recompute"]


def recompute(network: nn.Module, wanted: bool, on: bool = True) -> None:
    """Switch gradient checkpointing of a network on or off.

    Args:
        network: the network; one of timm's or of Hugging Face's.
        wanted: whether the settings ask for it; if not, the network is left as it is.
        on: whether to begin or to end.

    Raises:
        SettingsError: it should, but the network does not offer it.
    """
    if not wanted:
        return
    switch: Any = getattr(network, "set_grad_checkpointing", None)
    if switch is not None:
        switch(on)
    elif hasattr(network, "gradient_checkpointing_enable"):
        other: Any = network
        other.gradient_checkpointing_enable() if on else other.gradient_checkpointing_disable()
    else:
        raise SettingsError(
            f"train.checkpointing: {type(network).__name__} does not offer to recompute its activations, as networks of timm "
            "and Hugging Face do. Leave it out, or lower train.batch_size and raise train.accumulate."
        )
