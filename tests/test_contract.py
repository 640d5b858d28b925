"""The contract, over every method and composition of every installed plugin."""

from kdengine import Registry
from kdengine.testing import DistillerContract


def installed():
    registry = Registry()
    registry.load_all()
    return sorted([*registry.offered("methods"), *registry.offered("compositions")])


for name in installed():
    title = "Test" + "".join(part.capitalize() for part in name.split("-"))
    globals()[title] = type(title, (DistillerContract,), {"method": name})
