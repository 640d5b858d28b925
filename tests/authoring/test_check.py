"""``kdengine plugins check``: what passes, which faults are reported, and that nothing ends in a traceback."""

import json
import sys

import pytest

from kdengine.authoring.kinds import KINDS
from kdengine.authoring.subject import opened


@pytest.fixture
def check(kdengine):
    """Runs ``kdengine plugins check --json``: exit code, and reason by status and name of the check."""

    def run(path):
        code, out, _ = kdengine("plugins", "check", path, "--json")
        facts = json.loads(out)
        assert facts["passed"] == (code == 0)
        assert code == 0 or facts["badge"] is None
        found = {}
        for each in facts["checks"]:
            found.setdefault(each["status"], {})[each["check"]] = each["reason"]
        return code, found

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_passes_without_a_warning_before_it_is_installed(kind, kdengine, check, here):
    kdengine("new-plugin", "my-own", "--kind", kind)
    before = list(sys.path), "kdplugin_my_own" in sys.modules
    code, found = check("kdplugin-my-own")
    assert (code, set(found)) == (0, {"passed"})
    contract = {name.removeprefix("test_").replace("_", " ") for name in dir(KINDS[kind].contract_class) if "test_" in name}
    assert contract <= set(found["passed"])
    assert (list(sys.path), "kdplugin_my_own" in sys.modules) == before


def test_a_file_passes_and_is_told_what_others_would_miss_and_its_badge(kdengine, my_kd):
    code, out, err = kdengine("plugins", "check", my_kd())
    assert (code, err) == (0, "")
    assert "  passed   every tap is read\n" in out
    assert "  warning  declares the version of the contract: write KDENGINE_API = 1 in its module" in out
    assert "22 passed, 0 failed, 1 warning\n" in out
    assert out.endswith("![kdengine contract: passed](https://img.shields.io/badge/kdengine_contract-passed-brightgreen)\n")


def test_planted_faults_are_reported_by_their_names(kdengine, my_kd):
    file = my_kd(
        ("    Source: made for this test.\n", ""),
        ('taps = ("embedding",)', 'taps = ("embedding", "stage1")'),
        ("difference = self", 'numpy.random.seed(0); step.teacher["embedding"].add_(1); difference = self'),
        ("from torch import nn", "from torch import nn\nimport numpy"),
    )
    code, out, err = kdengine("plugins", "check", file)
    assert (code, err) == (1, "")
    failed = {line.partition(": ")[0].removeprefix("  FAILED   ") for line in out.splitlines() if "FAILED" in line}
    assert failed == {
        "every tap is read",
        "the description is complete",
        "the random states are left alone",
        "what is handed over stays as it was",
    }
    assert "Mean" not in err
    assert "the class docstring must contain 'Source: ...'" in out
    assert "18 passed, 4 failed, 1 warning" in out
    assert "badge" not in out
    assert "--debug shows where." in out


@pytest.mark.parametrize(
    ("changes", "extra", "reason"),
    [
        ([("from torch", "from torsh")], "", "ModuleNotFoundError: No module named 'torsh'"),
        ([("(Distiller):", ":")], "", "neither a subclass of kdengine.Distiller nor a function marked @hookimpl"),
        ([], "raise SystemExit('gone')", "SystemExit: gone"),
        ([], "KDENGINE_API = 99", "it was written for version 99"),
        ([], "class", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_fails_with_the_reason(changes, extra, reason, check, my_kd):
    file = my_kd(*changes)
    file.write_text(file.read_text() + "\n" + extra)
    code, found = check(file)
    assert (code, list(found)) == (1, ["failed"])
    assert reason in found["failed"]["can be loaded"]


def test_a_crash_is_a_failure_and_only_debug_shows_its_traceback(kdengine, my_kd):
    file = my_kd(("        difference = ", "        raise KeyError('deep inside')\n        difference = "))
    code, out, err = kdengine("plugins", "check", file)
    assert (code, err) == (1, "")
    assert "  FAILED   bf16 forwards: KeyError: 'deep inside'\n" in out
    file.write_text("raise KeyError('at once')")
    code, out, err = kdengine("plugins", "check", file, "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "raise KeyError('at once')" in err
    assert "--debug" not in out


def test_what_a_package_lacks_is_a_warning(kdengine, check, here):
    kdengine("new-plugin", "mine")
    folder = here / "kdplugin-mine"
    for name, old, new in (
        ("pyproject.toml", '"kdengine>=0.1", ', '"kdengine", '),
        ("pyproject.toml", 'license = "Apache-2.0"\n', ""),
        ("pyproject.toml", '\nmine = "', '\nyours = "'),
        ("README.md", "| `projector` | `linear` |", "| `projector` | `mlp` |"),
        ("README.md", "Source: ", "From "),
        ("src/kdplugin_mine/__init__.py", "KDENGINE_API = 1 ", "API = 1 "),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    text = (folder / "pyproject.toml").read_text().splitlines(keepends=True)
    (folder / "pyproject.toml").write_text("".join(line for line in text if not line.startswith("description")))
    (folder / "src/kdplugin_mine/py.typed").unlink()
    (folder / "tests/test_contract.py").unlink()
    code, found = check(folder)
    assert code == 0
    reasons = found["warning"]
    assert reasons.pop("declares the version of the contract").startswith("write KDENGINE_API = 1")
    assert reasons.pop("requires kdengine from a version on") == "write 'kdengine>=0.1' in place of 'kdengine'"
    assert "description" in reasons.pop("has a description")
    assert "license" in reasons.pop("has a licence")
    assert "name it 'mine' instead of 'yours'" in reasons.pop("its entry point has the name of its method")
    readme = reasons.pop("describes mine in its README")
    assert "the option 'projector'" in readme
    assert "Source:" in readme
    assert "py.typed" in reasons.pop("ships its types")
    assert "tests/test_contract.py" in reasons.pop("has tests")
    assert reasons == {}


@pytest.mark.slow
def test_the_tests_of_a_package_say_with_which_options_it_is_checked(kdengine, check, here, my_kd):
    kdengine("new-plugin", "--from", my_kd(("power: float = 2.0", "power: float")))
    folder = here / "kdplugin-mean"
    code, found = check(folder)
    assert code == 1
    assert "power" in found["failed"]["bf16 forwards"]
    tests = folder / "tests/test_contract.py"
    tests.write_text(tests.read_text().replace('"mean"\n', '"mean"\n    options = {"power": 2.0}\n'))
    own = "\n    def test_bf16_forwards(self):\n        raise AssertionError('of the package itself')\n"
    tests.write_text(tests.read_text().replace("# Recompute", own + "\n\n# Recompute"))
    code, found = check(folder)
    assert found.get("failed") is None, "the contract's own checks count, with the options of the package's tests"


def test_a_package_without_an_entry_point_or_anything_to_offer_fails(kdengine, check, here):
    kdengine("new-plugin", "mine", "--kind", "observer")
    folder = here / "kdplugin-mine"
    module = folder / "src/kdplugin_mine/__init__.py"
    module.write_text(module.read_text().replace("@hookimpl", ""))
    code, found = check(folder)
    assert code == 1
    assert found["failed"] == {"offers something": "it registers nothing, and has no hook that observes runs"}
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace("entry-points.kdengine", "entry-points.others"))
    code, found = check(folder)
    assert code == 1
    assert "[project.entry-points.kdengine]" in found["failed"]["has an entry point for kdengine"]


@pytest.mark.slow
def test_an_installed_plugin_is_checked_by_its_name(check, distribution, my_kd):
    source = my_kd().read_text() + "\n\nfrom kdengine import hookimpl\n\n@hookimpl\ndef kdengine_register(registry):\n"
    distribution("kdplugin-acme", source + "    registry.distiller(Mean)\n", entry="mean")
    code, found = check("KDplugin_acme")
    assert code == 0
    assert "every tap is read" in found["passed"]
    assert "has a README" in found["warning"]
    with opened("mean") as subject:
        assert subject.title == "kdplugin-acme 1.2, installed"


def test_a_plugin_of_networks_has_no_contract_and_so_no_badge(kdengine):
    code, out, _ = kdengine("plugins", "check", "kdzoo")
    assert code == 0
    assert out.endswith("No badge: nothing that it offers has a contract.\n")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tensorbord", "Did you mean 'tensorboard' or"),
        ("./nothing.py", "There is no file, folder or installed plugin './nothing.py'"),
        ("empty", "There is no file, folder or installed plugin 'empty'"),
        ("./empty", "'./empty' has no pyproject.toml"),
        ("odd", "cannot be read as that of a package"),
    ],
)
def test_what_is_not_there_is_refused(path, reason, kdengine, here):
    (here / "empty").mkdir()
    (here / "odd").mkdir()
    (here / "odd" / "pyproject.toml").write_text("[project")
    code, out, err = kdengine("plugins", "check", path)
    assert (code, out) == (2, "")
    assert reason in err.replace(str(here), ".")
