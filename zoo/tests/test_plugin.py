from kdzoo import NETWORKS

from kdengine import Registry


def test_every_network_is_offered_under_its_bare_name():
    registry = Registry()
    for name in NETWORKS:
        network = registry.model(name)
        assert network is not None
    assert registry.model("cnn2")(num_classes=4, widths=(8, 12)).num_classes == 4
    assert set(NETWORKS) <= set(registry.offered("models"))
