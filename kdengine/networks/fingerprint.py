"""A short hash that identifies a network's weights."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from kdengine.storage.contents import contents

__all__ = ["fingerprint"]


def fingerprint(model: nn.Module) -> str:
    """Hash of the names, types, shapes and values of all tensors in the state dict."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue  # a module's extra state
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if not tensor.is_meta:
            digest.update(contents(tensor))
    return digest.hexdigest()[:16]
