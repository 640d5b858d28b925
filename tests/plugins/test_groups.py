"""Groups come from what the methods say, and stand for the methods in them wherever methods are named."""

import pytest

from kdengine import PluginError, Registry
from kdengine.plugins.groups import ALL, expanded, groups, has_loss

ODD = """
from kdengine import Curriculum, Distiller, StepTransform, hookimpl

class Own(Distiller):
    \"\"\"A loss.\"\"\"
    name = "own"
    category = "relational"
    groups = ("mine", "modern", "st")

    def forward(self, step):
        return {}

class Other(Own):
    name = "mine-too"
    category = "response"

class Labels(Own):
    name = "of-labels"
    serves = ("labels",)

class Chain(Curriculum):
    \"\"\"No loss.\"\"\"
    name = "chain"
    groups = ("mine",)

    def route(self, teacher, student):
        return (teacher, student)

class View(StepTransform):
    \"\"\"No loss either.\"\"\"
    name = "view"
    groups = ("mine", "logits")

    def transform(self, step):
        return step

@hookimpl
def kdengine_register(registry):
    registry.distiller(View)
    registry.distiller(Own)
    registry.distiller(Other)
    registry.distiller(Chain)
    registry.distiller(Labels)
    registry.composition("couple", ["own", "st"])
"""


@pytest.fixture(scope="module")
def registry():
    return Registry()


def test_all_has_every_method_with_a_loss_of_its_own_and_no_composition(registry):
    found = groups(registry)[ALL]
    methods = registry.offered("methods")
    assert set(found) == {name for name, method in methods.items() if has_loss(method) and "classes" in method.serves}
    assert {"takd", "multi"} & set(found) == set()
    assert {"st", "rkd", "fitnet"} <= set(found)


def test_methods_are_sorted_by_category_and_name(registry):
    order = ["response", "multi-connection", "shared-representation", "relational"]
    methods = registry.offered("methods")
    places = [(order.index(methods[name].category), name) for name in groups(registry)[ALL]]
    assert places == sorted(places)


def test_plugins_bring_groups_of_their_own_and_what_has_no_loss_or_serves_no_classes_is_in_none(distribution):
    distribution("kdplugin-odd", ODD)
    registry = Registry()
    found = groups(registry)
    assert set(registry.all_methods()) - set(registry.all_methods(serving="classes")) == {"l2d", "of-labels"}
    assert found["mine"] == ["mine-too", "own"]
    assert "own" in found["modern"]
    assert not {"chain", "couple", "of-labels", "view"} & {name for names in found.values() for name in names}


def test_a_method_takes_precedence_over_a_group_of_the_same_name(distribution):
    distribution("kdplugin-odd", ODD)
    assert groups(Registry())["st"] == ["mine-too", "own"]
    assert expanded(["st"], Registry()) == ["st"]


def test_a_method_that_two_distributions_offer_is_in_its_groups_once_by_its_owner(distribution):
    distribution("kdplugin-odd", ODD)
    distribution("kdplugin-even", ODD, version="1.3")
    found = Registry()
    assert groups(found)["mine"] == ["kdplugin-even:mine-too", "kdplugin-even:own"]
    assert [method.name for name in groups(found)["mine"] for method in found.methods(name)] == ["mine-too", "own"]


def test_groups_are_replaced_by_their_methods_and_all_else_stays(registry):
    relations = groups(registry)["relations"]
    assert expanded(["fitnet+st", "relations", "plain", "kdplugin-st", "plain+st"], registry) == [
        "fitnet+st",
        *relations,
        "plain",
        "kdplugin-st",
        "plain+st",
    ]


def test_an_unknown_group_is_told_with_the_nearest(registry):
    for text, said in (("modrn", "Did you mean the group 'modern'?"), ("logit", "'logits'"), ("rdk", "'rkd'")):
        with pytest.raises(PluginError, match="There is no plugin") as error:
            expanded([text], registry)
        assert said in str(error.value)
    with pytest.raises(PluginError, match="offers 3 methods"):
        expanded(["kdplugin-mbd"], registry)


def test_a_group_cannot_be_joined_to_a_method(registry):
    with pytest.raises(PluginError, match=r"'modern' in 'st\+modern' is a group"):
        expanded(["st+modern"], registry)


def test_where_nothing_is_installed_all_says_so():
    with pytest.raises(PluginError, match="No methods are installed; pip install"):
        expanded(["all"], Registry(allow=[]))


@pytest.mark.parametrize("given", ['"modern"', "3", '("two words",)', "(3,)", '("a,b",)'])
def test_groups_that_cannot_be_named_are_refused(given, distribution):
    distribution("kdplugin-odd", ODD.replace('("mine", "modern", "st")', given))
    registry = Registry()
    registry.load_all()
    (odd,) = [plugin for plugin in registry.plugins if plugin.distribution == "kdplugin-odd"]
    assert odd.status == "broken"
    assert "write a tuple of names" in odd.reason
