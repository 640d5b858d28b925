"""``kdengine new-plugin``: what is written, and what is refused."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from kdengine import __version__
from kdengine.authoring.author import Author
from kdengine.authoring.kinds import KINDS
from kdengine.authoring.names import class_name_of

COMMON = ["pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/test.yml", "tests/test_contract.py"]


def project(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_has_every_file_filled_in_and_is_code(kind, kdengine, here):
    code, out, err = kdengine("new-plugin", "my-own", "--kind", kind, "--author", "Ada Lovelace <ada@example.org>")
    assert (code, err) == (0, "")
    folder = here / "kdplugin-my-own"
    module = folder / "src" / "kdplugin_my_own"
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {*COMMON, "src/kdplugin_my_own/__init__.py", "src/kdplugin_my_own/py.typed"}
    facts = project(folder)
    assert facts["name"] == "kdplugin-my-own"
    assert facts["authors"] == [{"name": "Ada Lovelace", "email": "ada@example.org"}]
    assert facts["entry-points"]["kdengine"] == {"my-own": "kdplugin_my_own"}
    assert facts["dependencies"][0] == f"kdengine>={__version__[:3]}"
    assert re.search(r"Copyright \d{4} Ada Lovelace\n", (folder / "LICENSE").read_text(encoding="utf-8"))
    texts = [(folder / file).read_text(encoding="utf-8") for file in files]
    assert [text for text in texts if re.search(r"(?<!\$)\$[a-z]", text)] == [], "a placeholder is left"
    assert "${{ matrix.python }}" in (folder / ".github/workflows/test.yml").read_text(encoding="utf-8")
    compile((module / "__init__.py").read_text(encoding="utf-8"), "module", "exec")
    assert max(len(line) for text in texts for line in text.splitlines()) <= 128
    commands = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    assert commands[0] == "python -m pip install -e './kdplugin-my-own[test]'"
    assert commands[1] == "python -m pytest ./kdplugin-my-own"
    assert len(commands) == 3


def test_the_code_of_the_example_is_short(kdengine, here):
    kdengine("new-plugin", "mine")
    code = (here / "kdplugin-mine/src/kdplugin_mine/__init__.py").read_text(encoding="utf-8")
    body = re.sub(r'"""(?s:.*?)"""', "", code.partition("class Mine")[2].partition("@hookimpl")[0])
    assert sum(bool(line.strip()) for line in body.splitlines()) <= 16


def test_the_templates_are_in_the_wheel(tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    templates = [str(file.relative_to(root)) for file in root.glob("kdengine/authoring/templates/*/*.tmpl")]
    assert len(templates) >= 3 * (len(KINDS) + 1)
    assert set(templates) <= set(packed)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("My_KD", r"lowercase letters, digits and single hyphens .* Write my-kd\."),
        ("2fast", "begins with a letter"),
        ("a--b", r"Write a-b\."),
        ("kdplugin-mine", r"leave out 'kdplugin-'.* Write mine\."),
        ("class", "a keyword of Python.*class-kd"),
        ("train", "the name of a setting"),
        ("st", "'st' is an installed method, of kdplugin-st"),
        ("mbd-soft", "installed method, of kdplugin-mbd"),
        ("multi", "installed composition"),
        ("tensorboard", "installed plugin, of kdplugin-tensorboard"),
        ("segmentation", "a task of kdengine itself"),
        ("", "Name the plugin, as in: kdengine new-plugin my-kd"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(name, reason, kdengine, here):
    code, out, err = kdengine("new-plugin", name)
    assert (code, out) == (2, "")
    assert re.search(reason, err), err
    assert list(here.iterdir()) == []


def test_an_unknown_kind_is_refused_with_those_there_are(kdengine):
    code, _, err = kdengine("new-plugin", "mine", "--kind", "lancher")
    assert code == 2
    assert all(f"'{kind}'" in err for kind in KINDS)


def test_nothing_is_overwritten(kdengine, here):
    (here / "kdplugin-mine").mkdir()
    (here / "kdplugin-mine" / "precious").write_text("x")
    code, _, err = kdengine("new-plugin", "mine")
    assert code == 2
    assert "'kdplugin-mine' exists, and nothing is ever overwritten. Name another folder with --out." in err
    assert [file.name for file in (here / "kdplugin-mine").iterdir()] == ["precious"]
    (here / "file").write_text("x")
    code, _, err = kdengine("new-plugin", "mine", "--out", "file/below")
    assert code == 2
    assert "cannot be written" in err
    assert sorted(file.name for file in here.iterdir()) == ["file", "kdplugin-mine"]


def test_another_folder_and_an_author_that_toml_must_escape(kdengine, here):
    code, out, _ = kdengine("new-plugin", "mine", "--out", "a b/c", "--author", 'Ada "Countess" \\ Lovelace', "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["next"][1] == "python -m pytest './a b/c'"
    assert sorted(facts["files"]) == facts["files"]
    assert project(here / "a b" / "c")["authors"] == [{"name": 'Ada "Countess" \\ Lovelace'}]
    code, _, err = kdengine("new-plugin", "other", "--author", " ")
    assert code == 2
    assert "--author ' ' has no name" in err


def test_the_author_is_by_default_the_one_that_git_knows(monkeypatch, here):
    (here / "config").write_text("[user]\n\tname = Grace Hopper\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(here / "config"))
    assert Author.of(None, "kdplugin-x").name == "Grace Hopper"
    monkeypatch.setenv("PATH", "")
    assert Author.of(None, "kdplugin-x").name == "the authors of kdplugin-x"


def test_a_class_is_named_after_the_plugin_unless_its_code_uses_that_word():
    assert class_name_of("my-kd", "method", "class $class_name(Distiller):") == "MyKd"
    assert class_name_of("distiller", "method", "class $class_name(Distiller):") == "DistillerMethod"
    assert class_name_of("none", "task", "") == "NoneTask"


def test_a_file_is_taken_along_byte_for_byte(kdengine, here, my_kd):
    file = my_kd(("import torch.nn", "import numpy\nimport sklearn.metrics\nimport torch.nn"))
    code, out, err = kdengine("new-plugin", "--from", file)
    assert (code, err) == (0, "")
    assert "Note:" not in out
    folder = here / "kdplugin-mean"
    assert (folder / "src/kdplugin_mean/my_kd.py").read_bytes() == file.read_bytes()
    module = (folder / "src/kdplugin_mean/__init__.py").read_text(encoding="utf-8")
    assert "from kdplugin_mean.my_kd import Mean\n" in module
    assert "    registry.distiller(Mean)\n" in module
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for row in (
        "| `power` | `2.0` | Exponent \\| of the difference. |",
        "| `taps` | `embedding` | ",
        "| `strong` | power = 4.0 |",
    ):
        assert row in readme
    assert "Source: made for this test." in readme
    assert 'method = "mean"' in (folder / "tests/test_contract.py").read_text(encoding="utf-8")
    facts = project(folder)
    assert facts["dependencies"] == ["kdengine>=0.1", "numpy", "scikit-learn", "torch>=2.8"]
    assert facts["description"] == "Match the embeddings, for kdengine"


HOOKS = """

from kdengine import hookimpl

KDENGINE_API = (1, 2)

@hookimpl
def kdengine_register(registry):
    registry.distiller(Mean)

@hookimpl
def kdengine_before_fit(run):
    pass
"""


def test_a_file_that_registers_itself_keeps_its_hooks(kdengine, here, my_kd):
    file = my_kd(name="it's-mine.py")
    file.write_text(file.read_text() + HOOKS)
    assert kdengine("new-plugin", "own", "--from", file)[0] == 0
    module = (here / "kdplugin-own/src/kdplugin_own/__init__.py").read_text(encoding="utf-8")
    assert "from kdplugin_own.method import Mean, kdengine_before_fit, kdengine_register\n" in module
    assert "def kdengine_register" not in module
    assert "KDENGINE_API = (1, 2) " in module
    assert project(here / "kdplugin-own")["entry-points"]["kdengine"] == {"mean": "kdplugin_own"}


def test_a_summary_that_ends_in_a_quote_and_a_class_under_another_name(kdengine, here, my_kd):
    file = my_kd(("Match the embeddings.", r'Match "the\\embeddings"'), ("class Mean", "class Other"))
    file.write_text(file.read_text() + "\n\nMean = Other\ndel Other\n")
    assert kdengine("new-plugin", "--from", file)[0] == 0
    module = (here / "kdplugin-mean/src/kdplugin_mean/__init__.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(module)).rstrip() == r'Match "the\embeddings"'
    assert "registry.distiller(Mean)" in module


def test_a_file_with_several_methods_needs_a_name_and_gets_a_contract_for_each(kdengine, here, my_kd):
    file = my_kd()
    file.write_text(file.read_text() + "\n\nclass Other(Mean):\n    name = 'other_mean'\n")
    code, _, err = kdengine("new-plugin", "--from", file)
    assert code == 2
    assert "has the methods mean, other_mean: name the plugin" in err
    code, out, _ = kdengine("new-plugin", "both", "--from", file)
    assert code == 0
    assert "the docstring of Other has no 'Source: ...'" in out
    tests = (here / "kdplugin-both/tests/test_contract.py").read_text(encoding="utf-8")
    assert all(f"class Test{name}(DistillerContract)" in tests for name in ("Mean", "Other"))
    assert "--plugin both:mean " in (here / "kdplugin-both/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "extra", "arguments", "reason"),
    [
        ([("from torch import nn", "from torch import nm")], "", [], "cannot import name 'nm'.*Fix the file first"),
        ([("(Distiller):", ":")], "", [], "neither a subclass of kdengine.Distiller nor"),
        ([("def forward", "def backward")], "", [], r"Mean has no forward\(self, step\)"),
        ([("import torch.nn", "import helper\nimport torch.nn")], "", [], "imports 'helper', which lies beside it"),
        ([('"mean"', '"st"')], "", [], "'st' is an installed method"),
        ([("(Distiller):", ":")], HOOKS.replace("distiller(Mean)", "recipes('.')"), [], "has no method: it offers recipes"),
        ([], "", ["--kind", "observer"], "--from takes a method along, so --kind observer does not go with it"),
        ([], "\nraise SystemExit", [], "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_taken_along_is_refused_with_reason_and_fix(
    changes, extra, arguments, reason, kdengine, here, my_kd, monkeypatch
):
    (here / "helper.py").write_text("")
    monkeypatch.syspath_prepend(here)
    file = my_kd(*changes)
    file.write_text(file.read_text() + extra)
    code, out, err = kdengine("new-plugin", "--from", file, *arguments)
    assert (code, out) == (2, "")
    assert re.search(reason, err), err
    assert "Traceback" not in err
    assert not (here / "kdplugin-mean").exists()


def test_a_file_that_is_not_there_is_refused(kdengine):
    code, _, err = kdengine("new-plugin", "--from", "nothing.py")
    assert code == 2
    assert "There is no file 'nothing.py' in the current folder, " in err


@pytest.fixture
def environment(tmp_path):
    """The folder with the programs of a fresh virtual environment, which sees what is installed here and needs no network."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/*/site-packages")
    # with the folders of what is editable, whose own .pth files are not read in a folder that is named so
    (site / "outside.pth").write_text("\n".join(path for path in sys.path if os.path.isdir(path)) + "\n")
    return folder / "bin"


SEEN = """
import json, sys
from kdengine.cli.main import main

main(["plugins", "--json"])
sys.exit(max(main(["plugins", "check", name, "--json"]) for name in sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the folders of an environment are others there")
def test_packages_of_every_kind_install_and_pass_their_tests_as_they_stand(kdengine, here, my_kd, environment):
    names = [*(f"new-{kind}" for kind in KINDS), "mean"]
    for kind in KINDS:
        assert kdengine("new-plugin", f"new-{kind}", "--kind", kind)[0] == 0
    assert kdengine("new-plugin", "--from", my_kd())[0] == 0
    folders = [f"./kdplugin-{name}" for name in names]

    def run(*command):
        done = subprocess.run([environment / "python", *command], cwd=here, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-input", "--disable-pip-version-check"]
    run("-m", "pip", "install", *offline, *(part for folder in folders for part in ("-e", folder)))
    tested = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", here, *folders)
    assert re.search(r"^\d+ passed in ", tested.splitlines()[-1])
    listed, *checked = map(json.loads, run("-c", SEEN, *names).splitlines())
    plugins = {plugin["name"]: plugin for plugin in listed["plugins"]}
    assert {name: (plugins[name]["status"], plugins[name]["distribution"]) for name in names} == {
        name: ("loaded", f"kdplugin-{name}") for name in names
    }
    assert [[each for each in one["checks"] if each["status"] != "passed"] for one in checked] == [[]] * len(names)
