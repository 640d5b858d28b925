"""Whatever lies beside the installed plugins, and whatever a plugin does: it is listed, skipped or broken, and no other is."""

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import click
from hypothesis import given, settings
from hypothesis import strategies as st

from kdengine import Distiller, Registry
from kdengine.plugins.discovery import Composition, Plugin, Registrar, discover

assert Distiller  # which brings torch: the folders below are all that is on the path

SOUND = """
from kdengine import Distiller, hookimpl

class Sound(Distiller):
    name = "sound"

    def forward(self, step):
        return {}

@hookimpl
def kdengine_register(registry):
    registry.distiller(Sound)
"""
ODD_FACTORY = st.sampled_from(
    ["None", "5", "'st'", "b'x'", "['st']", "[]", "[5]", "print", "Distiller", "Nameless()", "Nameless", "..."]
)
STATEMENTS = st.one_of(
    st.builds("registry.distiller({})".format, ODD_FACTORY),
    st.builds("registry.composition({}, {})".format, ODD_FACTORY, ODD_FACTORY),
    st.builds("registry.model({}, {})".format, ODD_FACTORY, ODD_FACTORY),
    st.builds("registry.dataset({}, {})".format, ODD_FACTORY, ODD_FACTORY),
    st.builds("registry.recipes({})".format, ODD_FACTORY),
    st.sampled_from(
        ["1 / 0", "raise SystemExit(0)", "raise BaseException", "raise GeneratorExit", "raise Odd", "return 5", "pass"]
    ),
    st.sampled_from(["registry.nothing()", "del registry._plugin", "import no_such_module_at_all", "import sys; sys.exit()"]),
)
MODULE = """
from kdengine import Distiller, hookimpl

class Odd(Exception):
    def __str__(self):
        return 1 / 0

class Nameless(Distiller):
    name = {name}
    Options = {options}
    {attribute} = {value}

    def forward(self, step):
        return {{}}

@hookimpl
def {hook}({argument}):
    {body}

{rest}
"""
MODULES = st.builds(
    lambda statements, **parts: MODULE.format(body="\n    ".join(statements), **parts),
    st.lists(STATEMENTS, min_size=1, max_size=3),
    name=ODD_FACTORY | st.just("'train'") | st.just("'sound'") | st.text(max_size=6).map(repr),
    options=ODD_FACTORY | st.just("Distiller.Options"),
    hook=st.sampled_from(["kdengine_register", "kdengine_registre", "kdengine_commands", "kdengine_after_fit"]),
    attribute=st.sampled_from(["taps", "presets", "category", "needs", "takes", "__doc__", "forward", "other"]),
    value=ODD_FACTORY,
    argument=st.sampled_from(["registry", "registry, more", "", "*registry", "cli"]),
    rest=st.sampled_from(
        ["", "", "", "1 / 0", "raise Odd", "def (", "raise BaseException", "kdengine_register = 5", "__name__ = None"]
    ),
)
WORDS = st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]), max_size=8)
NAMES = (
    st.sampled_from(["sound", "rkd", "odd", "kdplugin-rkd", "KDplugin_Odd", "a b", "x" * 300, "", " ", "..", "é", "[kdengine]"])
    | WORDS
)
TARGETS = st.sampled_from(
    [
        "fuzzed_broken",
        "fuzzed_missing",
        "fuzzed_odd",
        "json",
        "json:loads",
        "json:nothing",
        "fuzzed_odd:x.y",
        "",
        ":",
        "a b",
        "1:2",
        ".x",
    ]
) | WORDS.map("fuzzed_{}".format)
POINTS = st.lists(st.builds("{} = {}".format, NAMES, TARGETS), max_size=4).map("\n".join)
ENTRIES = (
    st.none() | POINTS.map("[kdengine]\n{}".format) | st.text(max_size=20).map("[kdengine]\n{}".format) | st.text(max_size=30)
)
METADATA = (
    st.none()
    | st.builds("Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format, NAMES, WORDS)
    | st.builds("Version: {}\n".format, WORDS)
    | st.text(max_size=30)
)
CONTENTS = (ENTRIES | METADATA).map(lambda text: None if text is None else text.encode()) | st.binary(max_size=30)
FOLDERS = st.dictionaries(
    st.sampled_from(
        ["odd-1.0.dist-info", "odd-2.0.dist-info", "rkd.dist-info", "-.dist-info", ".dist-info", "é-1.dist-info", "x.egg-info"]
    ),
    st.tuples(
        METADATA.map(lambda text: text if text is None else text.encode()) | CONTENTS,
        ENTRIES.map(lambda text: text if text is None else text.encode()) | CONTENTS,
    ),
    max_size=3,
)


@contextmanager
def installed(folders, source=""):
    """A folder on the path with a sound plugin, and beside it whatever else: folder -> its METADATA and entry points."""
    with tempfile.TemporaryDirectory() as place:
        point = Path(place)
        (point / "fuzzed_sound.py").write_text(SOUND, encoding="utf-8")
        (point / "fuzzed_odd.py").write_text(source, encoding="utf-8")
        (point / "fuzzed_broken.py").write_text("1 / 0", encoding="utf-8")
        sound = (b"Metadata-Version: 2.1\nName: kdplugin-sound\nVersion: 1\n", b"[kdengine]\nsound = fuzzed_sound\n")
        for name, files in {"kdplugin_sound-1.dist-info": sound, **folders}.items():
            (point / name).mkdir()
            for file, content in zip(("METADATA", "entry_points.txt"), files, strict=True):
                if content is not None:
                    (point / name / file).write_bytes(content)
        try:
            with mock.patch.object(sys, "path", [place]):  # all else that is needed has been imported
                yield point
        finally:
            for name in [name for name in sys.modules if name.startswith("fuzzed_")]:
                del sys.modules[name]


@given(FOLDERS)
def test_whatever_is_installed_is_listed_or_skipped_and_hides_nothing(folders):
    with installed(folders):
        found = list(discover())
    assert all(isinstance(text, str) for plugin in found for text in (plugin.name, plugin.distribution, plugin.version))
    assert "kdplugin-sound" in [plugin.distribution for plugin in found]


@settings(max_examples=60)
@given(FOLDERS)
def test_whatever_is_installed_is_loaded_or_broken_and_the_others_can_be_used(folders):
    with installed(folders):
        registry = Registry()
        registry.load_all()
        assert [method.name for method in registry.methods("kdplugin-sound:sound")] == ["sound"]
        assert registry.all_methods()
    for plugin in registry.plugins:
        assert plugin.status in ("loaded", "broken", "shadowed")
        assert (plugin.status == "loaded") == (not plugin.reason)
        assert plugin.status != "broken" or not plugin.selectable


@settings(max_examples=150)
@given(source=MODULES)
def test_whatever_a_plugin_does_it_is_loaded_or_broken_with_a_reason_and_the_others_can_be_used(answered, source):
    odd = (b"Metadata-Version: 2.1\nName: an-odd-one\nVersion: 1\n", b"[kdengine]\nodd = fuzzed_odd\n")
    with installed({"an_odd_one-1.dist-info": odd}, source):
        registry = Registry()
        registry.load_all()
        assert [method.name for method in registry.methods("kdplugin-sound:sound")] == ["sound"]
        found = {plugin.name: plugin for plugin in registry.plugins}["odd"]
        assert found.status in ("loaded", "broken", "shadowed")
        assert found.reason.strip() or found.status == "loaded"
        for kind in ("methods", "compositions", "models", "datasets"):
            assert all(isinstance(name, str) and name.strip() for name in registry.offered(kind))
        answered(registry.methods, "an-odd-one")
        answered(registry.recipe, "none")
        registry.add_commands(click.Group())


@given(text=st.text() | NAMES | st.builds("{}:{}".format, NAMES, NAMES))
def test_any_text_selects_methods_or_is_refused(answered, text):
    with installed({}):
        answered(Registry().methods, text)


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
)


@given(kind=st.sampled_from(["distiller", "composition", "model", "dataset", "recipes"]), first=ODD_VALUES, second=ODD_VALUES)
def test_whatever_is_offered_is_kept_under_a_name_or_refused(answered, kind, first, second):
    plugin = Plugin("odd", "kdplugin-odd", "1", "odd")
    two = kind in ("composition", "model", "dataset")
    answered(getattr(Registrar(plugin), kind), *((first, second) if two else (first,)))
    for offers in (plugin.methods, plugin.compositions, plugin.models, plugin.datasets):
        assert all(isinstance(name, str) and name.strip() for name in offers)
    assert not plugin.methods
    assert not plugin.models
    assert all(isinstance(found, Composition) and found.methods for found in plugin.compositions.values())
