import json

import pytest
from kdplugin_rkd import RKD

from kdengine import PluginError, Registry, SettingsError
from kdengine.plugins.groups import groups
from kdengine.runs.lane_specs import LaneSpec, lane_specs, noted, with_plain


def test_names_become_lanes_and_a_plus_joins_methods_in_one():
    entries = lane_specs(["st", "fitnet+st", "plain"], Registry())
    assert [(entry.label, list(entry.plugins)) for entry in entries] == [
        ("st", ["st"]),
        ("fitnet+st", ["fitnet", "st"]),
        ("plain", []),
    ]


def test_groups_become_a_lane_for_each_method_and_what_is_named_twice_gets_one():
    labels = [lane.label for lane in lane_specs("sp, relations,fitnet+st,kdplugin-sp,sp,plain,plain,,fitnet+st", Registry())]
    assert labels[0] == "sp"
    assert sorted(labels) == sorted({*groups(Registry())["relations"], "fitnet+st", "plain"})


def test_other_methods_of_the_same_name_are_not_taken_for_one(tmp_path):
    """They get lanes of the same label, which is told."""
    for name in ("one", "two"):
        body = "from kdengine import Distiller\n\nclass Own(Distiller):\n    name = 'own'\n\n"
        (tmp_path / f"{name}.py").write_text(body + "    def forward(self, step):\n        return {}\n")
    files = [str(tmp_path / "one.py"), str(tmp_path / "two.py")]
    with pytest.raises(SettingsError, match="Several lanes are called own"):
        with_plain(lane_specs(files, Registry()))


def test_an_unknown_method_is_told():
    with pytest.raises(PluginError, match="'rkd'"):
        lane_specs(["rdk"], Registry())


def test_the_plain_student_is_always_among_them_and_once():
    st = LaneSpec("st", ["st"])
    assert [entry.label for entry in with_plain([st])] == ["plain", "st"]
    assert [entry.label for entry in with_plain([st, LaneSpec("bare", [])])] == ["st", "bare"]
    with pytest.raises(SettingsError, match="Several lanes are called st"):
        with_plain([st, st])


def test_a_lane_is_noted_as_plain_data_with_all_options_of_methods_that_came_as_objects():
    named = LaneSpec("st", ["st"], {"st": {"alpha": 0.5}}, {"lr": 0.1})
    assert noted(named, {}, Registry()) == vars(named)
    mixed = LaneSpec("both", [RKD(angle=1.0), RKD(angle=2.0), "st"])
    found = json.loads(json.dumps(noted(mixed, {"st": {"alpha": 0.5}}, Registry())))
    assert found["plugins"] == ["rkd", "rkd", "st"]
    options = found["options"]
    assert (options["rkd"]["angle"], options["rkd-2"]["angle"], options["st"]["alpha"]) == (1.0, 2.0, 0.5)
    assert options["st"]["temperature"]


@pytest.mark.parametrize("label", ["../escaped", "/absolute", "a/b", "..", "", "a\\b", 3])
def test_a_label_that_would_lead_out_of_the_folder_is_refused(label):
    with pytest.raises(SettingsError, match="a label must be a valid folder name"):
        with_plain([LaneSpec(label, ["st"])])


def test_objects_and_single_methods_become_lanes():
    hot = RKD(weight=2)
    assert [(lane.label, list(lane.plugins)) for lane in lane_specs(["st", hot], Registry())] == [
        ("st", ["st"]),
        ("rkd", [hot]),
    ]
    lanes = lane_specs({"a": "st", "b": hot, "c": "fitnet+st"}, Registry())
    assert [list(lane.plugins) for lane in lanes] == [["st"], [hot], ["fitnet", "st"]]
    with pytest.raises(SettingsError, match="given as a class"):
        lane_specs([RKD], Registry())
