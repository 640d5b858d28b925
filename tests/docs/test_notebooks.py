import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra 'docs' is not installed")

from kdengine_docs.notebooks import FOLDER, as_page, notebook_of, write_notebooks

SCRIPTS = sorted(FOLDER.glob("*.py"))
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@every_script
def test_the_notebook_is_what_its_script_makes(script):
    """Made again by: make notebooks."""
    assert script.with_suffix(".ipynb").read_text(encoding="utf-8") == notebook_of(script)


@every_script
def test_it_is_a_valid_notebook_of_text_and_code(script):
    import nbformat

    notebook = nbformat.reads(notebook_of(script), as_version=4)
    nbformat.validate(notebook)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}
    assert notebook.cells[0].source.startswith("# ")


@every_script
def test_its_page_has_all_cells_and_links_to_both(script):
    page = as_page(script)
    assert page.startswith("# ")
    assert f"<{script.stem}.ipynb>" in page
    cells = json.loads(notebook_of(script))["cells"]
    assert page.count("```python\n") == sum(cell["cell_type"] == "code" for cell in cells)


def test_a_changed_script_changes_its_notebook(tmp_path):
    script = tmp_path / "walk.py"
    script.write_text("# %% [markdown]\n# # Title\n\n# %%\nprint(1)\n")
    (made,) = write_notebooks(tmp_path)
    assert json.loads(made.read_text())["cells"][1]["source"] == ["print(1)"]
    assert as_page(script).endswith("```python\nprint(1)\n```\n")


@pytest.mark.slow
@every_script
def test_the_script_runs_as_it_stands(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, "runs").is_dir()
