"""The contract, over every method and composition of every installed plugin."""

from kdengine import Registry
from kdengine.testing import DistillerContract

for name in Registry().all_methods():
    title = "Test" + "".join(part.capitalize() for part in name.split("-"))
    globals()[title] = type(title, (DistillerContract,), {"method": name})
