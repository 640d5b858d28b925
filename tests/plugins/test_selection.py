from pathlib import Path

import pytest
from kdplugin_rkd import RKD

from kdengine import Curriculum, Distiller, Phase, PluginError, Registry, SettingsError
from kdengine.config.settings import Settings
from kdengine.plugins.selection import checked_settings, choose_distillers, label_of, plugins_given, resolved


class Phased(Distiller):
    """Has a stage as long as it is told."""

    name = "staged"

    class Options(Distiller.Options):
        epochs: int | float = 2

    def phases(self):
        return [Phase("first", epochs=self.options.epochs)]

    def forward(self, step):
        return {}


class Router(Curriculum):
    """Has no loss of its own."""

    name = "router"
    companions = ("st",)

    def route(self, teacher, student):
        return (teacher, student)


class Demanding(Distiller):
    """Wants what no step carries, and taps of a kind that there is not."""

    name = "demanding"
    needs = ("two_views",)
    takes = "sounds"

    def forward(self, step):
        return {}


def test_the_same_method_twice_is_told_apart_by_a_number():
    chosen = choose_distillers(["st", Phased(), "st", "st"], {"st-2": {"alpha": 0.5}}, Registry())
    assert list(chosen) == ["st", "staged", "st-2", "st-3"]
    assert [chosen[key].options.alpha for key in ("st", "st-2", "st-3")] == [0.9, 0.5, 0.9]


def test_the_faults_of_all_methods_are_told_at_once():
    options = {"st": {"temperature": 0}, "rkd": {"angel": 1}, "at": {"beta": 1}}
    with pytest.raises(SettingsError) as caught:
        choose_distillers(["st", "rkd"], options, Registry())
    assert all(piece in str(caught.value) for piece in ("st.temperature", "rkd.angel", "'at'"))


def test_an_unknown_method_is_told_beside_the_faults_of_the_settings():
    with pytest.raises(SettingsError) as caught:
        checked_settings({"student": "resnet8", "seed": -1, "methods": ["rdk"]}, ["rdk"], Registry())
    assert "seed = -1" in str(caught.value)
    assert "'rkd'" in str(caught.value)


def test_all_unknown_methods_are_told_with_the_faults_of_the_known_ones():
    values = {"student": "resnet8", "methods": ["rdk", "st", "sst"], "options": {"st": {"alpha": -1}, "rdk": {"x": 1}}}
    with pytest.raises(SettingsError) as caught:
        checked_settings(values, values["methods"], Registry())
    lines = str(caught.value).splitlines()
    assert [line.partition(".")[0] for line in lines] == ["There is no plugin 'rdk'", "There is no plugin 'sst'", "st"]


def test_an_unknown_method_alone_stays_an_error_of_plugins():
    with pytest.raises(PluginError, match="no plugin 'rdk'"):
        checked_settings({"student": "resnet8", "methods": ["rdk"]}, ["rdk"], Registry())


@pytest.mark.parametrize("methods", [5, [5], {"a": 1}, None, [["st"]]])
def test_methods_of_the_wrong_type_are_told(methods):
    with pytest.raises(SettingsError, match="methods"):
        checked_settings({"student": "resnet8", "methods": methods}, methods, Registry())


def test_methods_of_several_lanes_are_left_to_the_lanes():
    values = {"student": "resnet8", "options": {"st-2": {"alpha": 0.5}}}
    assert checked_settings(values, ["st"], Registry(), one_lane=False).options == values["options"]


@pytest.mark.parametrize("options", [5, {"st": 5}])
def test_options_of_the_wrong_shape_are_told(options):
    with pytest.raises(SettingsError, match="options"):
        checked_settings({"student": "resnet8", "methods": ["st"], "options": options}, ["st"], Registry())


def test_resolved_settings_name_every_option_that_is_in_use():
    chosen = choose_distillers(["rkd", Phased(epochs=3)], {"rkd": {"preset": "bhheo", "angle": 1}}, Registry())
    found = resolved(Settings(student="resnet8"), chosen).options
    assert found["staged"] == {"weight": 1.0, "epochs": 3}
    assert (found["rkd"]["angle"], found["rkd"]["distance"], found["rkd"]["taps"]) == (1.0, 100.0, ["logits"])
    again = choose_distillers(["rkd"], {"rkd": found["rkd"]}, Registry())
    assert again["rkd"].options == chosen["rkd"].options


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ([Router()], ["router", "st"]),
        ([Router(), "at"], ["router", "at"]),
        (["st", Router()], ["st", "router"]),
        ([Router(weight=0)], ["router"]),
        ([], []),
    ],
)
def test_a_method_without_a_loss_brings_its_companions_where_no_other_teaches(plugins, expected):
    assert list(choose_distillers(plugins, {}, Registry())) == expected


def test_the_options_of_a_companion_can_be_given():
    chosen = choose_distillers([Router()], {"st": {"alpha": 0.25}}, Registry())
    assert chosen["st"].options.alpha == 0.25


def test_a_lane_is_called_what_was_asked_for(tmp_path):
    assert label_of([], Registry()) == "plain"
    assert label_of(["kdplugin-fitnet", "st"], Registry()) == "fitnet+st"
    assert label_of([Router()], Registry()) == "router"
    assert label_of(["rkd", "tensorboard"], Registry()) == "rkd"
    assert label_of(["tensorboard"], Registry()) == "plain"
    assert label_of(["multi"], Registry()) == label_of(["kdplugin-takd:multi"], Registry()) == "multi"


def test_what_the_contract_does_not_offer_is_refused_at_once():
    with pytest.raises(SettingsError) as caught:
        choose_distillers([Demanding()], {}, Registry())
    assert all(piece in str(caught.value) for piece in ("'two_views'", "input_gradients", "'sounds'", "maps"))


def test_methods_may_be_names_paths_or_objects_but_not_classes():
    method = RKD()
    assert plugins_given(["st", Path("my_kd.py"), method]) == ("st", "my_kd.py", method)
    assert plugins_given(method) == (method,)
    with pytest.raises(SettingsError, match=r"RKD was given as a class\. Give an object of it: RKD\(\)\."):
        plugins_given([RKD])
    with pytest.raises(SettingsError, match=r"5 is no method\. Give the name"):
        plugins_given([5])


@pytest.mark.parametrize(
    ("name", "said"), [("a.b", "only letters, digits"), ("train", "the name of a setting"), ("a/b", "cannot")]
)
def test_an_object_needs_a_name_that_settings_and_folders_can_have(name, said):
    class Named(Distiller):
        def forward(self, step):
            return {}

    Named.name = name
    with pytest.raises(PluginError, match=said):
        choose_distillers([Named()], {}, Registry())
