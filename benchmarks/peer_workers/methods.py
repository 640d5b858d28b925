"""The methods that are compared: how kdengine is asked for each, and where definitions differ from those of the peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["METHODS", "ONLY_PEERS", "Method"]


@dataclass(frozen=True)
class Method:
    """A method as kdengine runs it.

    Attributes:
        plugins: what the run selects.
        options: of each method.
        phase: the phase whose steps are timed.
        note: how the peers' definition differs; empty if the first step's loss must be the same number.
    """

    plugins: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    phase: str = "joint"
    note: str = ""


def one(name: str, note: str = "", phase: str = "joint", **options: Any) -> Method:
    """A method that is a single plugin."""
    return Method((name,), {name: options} if options else {}, phase, note)


RANDOM = "both start from random layers of their own"
METHODS: dict[str, Method] = {
    "st": one("st", alpha=0.9, temperature=4.0),
    "lskd + st": Method(("lskd", "st"), {"st": {"alpha": 0.9, "temperature": 2.0}}),
    "dist": one("dist", beta=1.0, gamma=1.0, temperature=4.0),
    "at": one("at", beta=1.0),
    "sp": one("sp", "torchdistill scales rows to a sum of 1, not to length 1", beta=1.0),
    "pkt": one("pkt", beta=1.0),
    "rkd": one("rkd", distance=1.0, angle=2.0),
    "cc": one("cc", "torchdistill divides the norm by B^2, not its square, and puts a linear layer before it", beta=1.0),
    "fsp": one("fsp", "torchdistill takes norms of columns in the place of squares", mode="joint"),
    "vid": one("vid", RANDOM),
    "crd": one("crd", f"{RANDOM}; torchdistill gets its negatives drawn ahead, for its own drawing fails", beta=1.0),
    "srd": one("srd", f"{RANDOM}; torchdistill adds soft targets of temperature 1"),
    "fitnet": one("fitnet", "kdengine and torchdistill start from a random regressor; modelopt has none", mode="joint"),
    "embedding": Method(
        ("foundation",),
        {"foundation": {"taps": "embedding", "distance": "mse", "patches": 0.0, "queue": 0.0}},
        note="kdengine starts from a random projector, and scales the teacher's embedding to a mean square of 1",
    ),
    "mgd": one("mgd", f"{RANDOM}; modelopt masks positions and takes the mean, kdengine the sum", over="positions", mask=0.65),
    "reviewkd": one("reviewkd", RANDOM, beta=1.0, warmup_epochs=0, warmup_share=0.0),
    "ft": one("ft", f"{RANDOM}; kdengine without batch normalisation", beta=1.0, epochs=0),
    "ab": one(
        "ab", "kdengine weighs stages by powers of 1/2, and stops at the deepest tap", phase="init", init_epochs=1, scale=1.0
    ),
}
"""Name -> method, those first whose first loss must agree."""

ONLY_PEERS = {
    "torchdistill": "SSKD, PAD, KTAAD (affinity), ICKD, DIST+, SKD",
    "nvidia-modelopt": "MFT",
    "timm": "token distillation (needs a student with a distillation token)",
}
"""Methods of the peers that kdengine does not have."""
