"""Tools for testing methods: hand-made steps, tiny networks, and the contract that every method must satisfy."""

from kdengine.testing.contract import DistillerContract
from kdengine.testing.networks import tiny_pair, vit_pair
from kdengine.testing.steps import built, make_step

__all__ = ["DistillerContract", "built", "make_step", "tiny_pair", "vit_pair"]
