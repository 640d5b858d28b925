"""The examples in the documents are run, so that they stay true."""

import re
import subprocess
import sys
from pathlib import Path

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm
import torch

from kdengine import Engine
from kdengine.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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


def test_the_example_of_a_method_takes_about_15_lines():
    (code,) = (code for code in blocks(ROOT / "README.md", "python") if "(Distiller):" in code)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document):
    prose = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", prose)
    assert [link for link in links if not (document.parent / link).exists()] == []
