"""What authors of methods test with: steps made by hand, tiny networks, and the contract that every method keeps."""

from kdengine.testing.contract import DistillerContract
from kdengine.testing.networks import tiny_pair, vit_pair
from kdengine.testing.steps import built, make_step

__all__ = ["DistillerContract", "built", "make_step", "tiny_pair", "vit_pair"]
