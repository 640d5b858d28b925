"""Tools for testing methods and launchers: hand-made steps, tiny networks, and the contracts that they must satisfy."""

from kdengine.testing.contract import DistillerContract
from kdengine.testing.launcher_contract import LauncherContract
from kdengine.testing.networks import tiny_pair, vit_pair
from kdengine.testing.steps import built, make_step

__all__ = ["DistillerContract", "LauncherContract", "built", "make_step", "tiny_pair", "vit_pair"]
