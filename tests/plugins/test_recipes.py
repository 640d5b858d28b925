import pytest

from kdengine import Distiller, Engine, PluginError, Registry, SettingsError
from kdengine.plugins.recipes import recipe_values

RECIPE = """
seed = 4
methods = ["fitnet"]
data = "digits@train=64@test=32"

[train]
lr = 0.01

[options.fitnet]
kernel = 3

[options.fitnet-2]
kernel = 5

[options.st]
alpha = 0.5
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    return str(file)


class Own(Distiller):
    """Of the caller."""

    name = "own"

    def forward(self, step):
        return {}


@pytest.mark.parametrize(
    ("methods", "kept"), [([], {"fitnet", "fitnet-2"}), (["st"], {"st"}), (["rkd"], set()), ([Own()], set())]
)
def test_only_the_options_of_methods_in_use_are_taken(methods, kept, recipe):
    assert recipe_values(recipe, methods, Registry())["options"].keys() == kept


def test_an_unknown_method_is_left_to_the_settings_to_tell(recipe):
    assert recipe_values(recipe, ["rdk", "st"], Registry())["options"].keys() == {"st"}


@pytest.mark.parametrize("methods", ["5", '"st"', "[5]", "{st = 1}"])
def test_methods_of_the_wrong_type_are_left_to_the_settings_to_tell(methods, tmp_path):
    (tmp_path / "odd.toml").write_text(f"methods = {methods}\n[options.st]\nalpha = 1\n")
    assert "methods" in recipe_values(str(tmp_path / "odd.toml"), [], Registry())


def test_what_is_said_goes_before_the_recipe_and_what_is_not_said_is_taken_from_it(recipe):
    def settings(*plugins, **said):
        return Engine("resnet14", "resnet8", plugins, recipe=recipe, **said).settings

    taken = settings("st")
    assert (taken.seed, taken.data, taken.train.lr, taken.methods) == (4, "digits@train=64@test=32", 0.01, ("st",))
    said = settings("st", seed=0, lr=0.3, data="digits")
    assert (said.seed, said.data, said.train.lr) == (0, "digits", 0.3)
    with pytest.raises(SettingsError, match="fitnet-2"):
        Engine("resnet14", "resnet8", recipe=recipe).fit()


def test_a_recipe_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PluginError, match="no recipe 'nowhere'"):
        recipe_values("nowhere", [], Registry())
    with pytest.raises(SettingsError, match="Cannot read"):
        recipe_values(str(tmp_path / "nowhere.toml"), [], Registry())
