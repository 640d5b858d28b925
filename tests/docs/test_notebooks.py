import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="the extra 'docs' is not installed")

from kdengine_docs.cells import outputs_of
from kdengine_docs.notebooks import FOLDER, as_page, cells_of, notebook_of, write_notebooks

SCRIPTS = sorted(FOLDER.glob("*.py"))
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@every_script
def test_the_notebook_has_the_cells_of_its_script_and_what_they_show(script):
    """Made again by: make notebooks. Outputs hold times and versions, so that only the cells can be compared."""
    file = script.with_suffix(".ipynb")
    text = file.read_text(encoding="utf-8")
    assert cells_of(text) == cells_of(notebook_of(script))
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "not every cell was run"
    assert sum(bool(cell["outputs"]) for cell in code) >= len(code) // 2
    assert file.stat().st_size < 300_000
    for path in ("/tmp", "/home", "/root", "/work", str(Path.home())):
        assert path not in text, "the outputs name a folder of the machine"


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
    cell = json.loads(made.read_text())["cells"][1]
    assert cell["source"] == ["print(1)"]
    assert cell["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]
    assert as_page(script).endswith("```python\nprint(1)\n```\n")


def test_cells_share_their_names_and_show_what_a_notebook_shows():
    code = ["x = 2\nprint('a')\nx + 1", "x", "None", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"]
    first, second, third, fourth = outputs_of(code)
    assert first[0] == {"output_type": "stream", "name": "stdout", "text": "a\n"}
    assert (first[1]["data"], second[0]["data"]) == ({"text/plain": "3"}, {"text/plain": "2"})
    assert third == []
    assert [output["output_type"] for output in fourth] == ["display_data"]
    assert fourth[0]["data"]["image/png"].startswith("iVBOR")


def test_a_cell_that_fails_ends_the_notebook_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)cell 2.*ZeroDivisionError"):
        outputs_of(["x = 0", "1 / x"])


@pytest.mark.slow
@every_script
def test_the_script_runs_as_it_stands(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path, "runs").is_dir()
