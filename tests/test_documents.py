"""The examples in the documents are run, so that they stay true."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm
import torch

from kdengine import DataError, Engine, ModelError, Registry, SettingsError
from kdengine.cli.main import COMMANDS, main
from kdengine.config.settings import TrainSettings

ROOT = Path(__file__).parents[1]
MADE = ("_build", "plugins")
"""Folders of docs/ that are made when the site is built."""
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.relative_to(ROOT / "docs").parts[0] not in MADE),
]


def blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", ["README.md", "docs/writing-a-method.md"])
def test_the_example_of_a_method_runs_as_it_stands(document, tmp_path):
    (code,) = (code for code in blocks(ROOT / document, "python") if "(Distiller):" in code)
    file = tmp_path / "my_kd.py"
    file.write_text(code)
    teacher = timm.create_model("resnet14", num_classes=10)
    run = Engine(teacher, "resnet8", [str(file)], "digits@train=64@test=32", epochs=1, out=tmp_path / "run")
    (record,) = run.fit().history
    assert len(record["terms"]) == 2
    assert all(value > 0 for value in record["terms"].values())


def test_the_readme_has_at_most_150_lines_and_a_picture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    (picture,) = re.findall(r"!\[[^\]]+\]\(https://raw\.githubusercontent\.com/kdengine/kdengine/main/([^)]+)\)", text)
    assert (ROOT / picture).is_file()


def test_every_link_of_the_readme_into_the_repository_leads_to_a_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(https://github\.com/kdengine/kdengine/(?:blob|tree)/main/([^)#]+)", text)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_guide_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made_for_the_site = {"index.md", "changelog.md", "contributing.md"}
    guides = {page.name for page in (ROOT / "docs").glob("*.md")} - made_for_the_site
    assert [name for name in sorted(guides) if f"/docs/{name}" not in text] == []


def test_the_example_of_a_method_takes_about_15_lines():
    (code,) = (code for code in blocks(ROOT / "README.md", "python") if "(Distiller):" in code)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15


@pytest.mark.parametrize("document", ["README.md", pytest.param("docs/writing-a-method.md", marks=pytest.mark.slow)])
def test_the_example_of_a_method_keeps_the_contract(document, tmp_path, capsys):
    (code,) = (code for code in blocks(ROOT / document, "python") if "(Distiller):" in code)
    file = tmp_path / "my_kd.py"
    file.write_text(code)
    assert main(["plugins", "check", str(file)]) == 0, capsys.readouterr().out


def test_the_example_of_a_task_keeps_the_contract(age, capsys):
    assert main(["plugins", "check", age]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_the_example_of_a_test_passes_as_it_stands(tmp_path):
    method, test = (code for code in blocks(ROOT / "docs" / "writing-a-method.md", "python") if "_kd.py\n" in code)
    (tmp_path / "my_kd.py").write_text(method)
    (tmp_path / "test_my_kd.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_kd.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout


def test_the_example_of_a_recorder_runs_as_it_stands():
    (code,) = blocks(ROOT / "docs" / "taps.md", "python")
    names = {"model": timm.create_model("resnet8", num_classes=10), "images": torch.randn(2, 3, 32, 32)}
    exec(code, names)
    assert names["trace"]["embedding"].shape == (2, 64)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists(document):
    text = document.read_text(encoding="utf-8")
    commands = set(re.findall(r"(?:^|\$ |`)kdengine ([a-z][a-z-]*)", text, flags=re.MULTILINE))
    assert commands <= set(COMMANDS)


def test_the_catalogue_of_methods_is_what_the_command_prints(capsys):
    """Made again by: kdengine plugins --markdown > docs/methods.md."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDENGINE_LOAD_PLUGINS", ",".join(folder.name for folder in ROOT.glob("plugins/kdplugin-*")))
        main(["plugins", "--markdown"])
    assert capsys.readouterr().out == (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", prose)
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.fixture
def age(tmp_path):
    """The file with the example of a task."""
    (code,) = (code for code in blocks(ROOT / "docs" / "writing-a-task.md", "python") if "(Task):" in code)
    assert len(code.splitlines()) <= 60
    file = tmp_path / "age.py"
    file.write_text(code)
    return str(file)


def test_the_example_of_a_task_is_registered_and_keeps_the_contract(age):
    registry = Registry()
    registry.methods(age)
    task = registry.task("age").of(SimpleNamespace(), TrainSettings())
    output, target = torch.tensor([[30.0], [41.5]]), torch.tensor([31, 40])
    task.check(output, target)
    assert task.loss(output, target) == torch.nn.functional.smooth_l1_loss(output[:, 0], target.float())
    assert task.metrics()(output, target)["mae"] == 1.25
    assert task.loss(output, None) is None
    assert [measure.name for measure in task.scoring.measures] == list(task.metrics())
    with pytest.raises(ModelError, match=r"returns \[2, 2\], but one number"):
        task.check(output.expand(2, 2))
    with pytest.raises(DataError, match=r"targets are \[1\]: give one number"):
        task.check(output, target[:1])


def test_the_example_of_a_task_runs_with_a_method_on_maps_and_refuses_one_of_classes(age, tmp_path):
    settings = {"data": "digits@train=64@test=32", "task": "age", "epochs": 2, "lr": 0.01}
    result = Engine("resnet14", "resnet8", [age, "at"], out=tmp_path / "run", **settings).fit()
    assert 0 < result.history[-1]["test_mae"] < 10
    assert result.history[-1]["terms"]["at.attention"] > 0
    with pytest.raises(SettingsError, match="'age' are ages"):
        Engine("resnet14", "resnet8", [age, "st"], **settings).plan()


def test_the_example_of_a_curriculum_names_its_chain(tmp_path):
    (code,) = (code for code in blocks(ROOT / "docs" / "writing-a-method.md", "python") if "(Curriculum):" in code)
    file = tmp_path / "my_chain.py"
    file.write_text(code)
    (method,) = Registry().methods(str(file))
    assert method().route("resnet32", "resnet8") == ("resnet32", "resnet20", "resnet8")


def test_the_example_of_an_observer_is_called(tmp_path, capsys):
    (code,) = (code for code in blocks(ROOT / "docs" / "writing-a-method.md", "python") if "kdengine_after_epoch" in code)
    file = tmp_path / "my_observer.py"
    file.write_text(code)
    Engine(None, "resnet8", [str(file)], "digits@train=64@test=32", epochs=1, out=tmp_path / "run").fit()
    assert "joint 1 {'task': " in capsys.readouterr().out


def test_the_example_of_a_tracker_is_told_of_a_run_from_its_beginning_to_its_end(tmp_path, capsys):
    (code,) = (code for code in blocks(ROOT / "docs" / "observers.md", "python") if "(RunLog):" in code)
    file = tmp_path / "printed.py"
    file.write_text(code)
    data, settings = "digits@train=64@test=32", {"epochs": 1, "lr": 0.02, "log_every": 1, "batch_size": 64}
    Engine(None, "resnet8", [str(file)], data, out=tmp_path / "run", **settings).fit()
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["begins", "step", "epoch", "per-class", "finished"]


def test_the_example_of_an_optimizer_of_ones_own_runs_as_it_stands():
    (code,) = blocks(ROOT / "docs" / "training.md", "python")
    names = {}
    exec(code, names)
    assert names["engine"].settings.factories == {"optimizer": "factory:adam", "scheduler": "factory:halving"}


def test_the_example_of_a_launcher_keeps_the_contract(tmp_path, monkeypatch):
    code, test = blocks(ROOT / "docs" / "scaling.md", "python")
    (tmp_path / "one_by_one.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    exec(test, names)
    checks = [name for name in dir(names["TestOneByOne"]) if name.startswith("test_")]
    assert len(checks) == 8
    for number, name in enumerate(checks):
        check = getattr(names["TestOneByOne"](), name)
        folder = tmp_path / str(number)
        folder.mkdir()
        check(folder) if "tmp_path" in check.__code__.co_varnames else check()


@pytest.mark.parametrize("name", ["local"])
def test_the_options_of_the_built_in_launchers_stand_in_the_document(name):
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for option, facts in Registry().launcher(name).describe()["options"].items():
        default = "none" if facts["default"] is None else f"`{facts['default']}`"
        assert f"| `{option}` | {default} | {facts['help']} |" in text
