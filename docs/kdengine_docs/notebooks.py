"""Notebooks, and pages of this site, from scripts in percent format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["as_page", "notebook_of", "write_notebooks"]

FOLDER = Path(__file__).parents[1] / "notebooks"


def notebook_of(script: Path) -> str:
    """A script as a notebook, the same text for the same script: cells are numbered, nothing has been run."""
    import jupytext
    import nbformat

    notebook = _read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return f"{jupytext.writes(notebook, fmt='ipynb').rstrip()}\n"


def as_page(script: Path) -> str:
    """A script as Markdown, with links to itself and to its notebook below the title."""
    cells = [_block(cell["cell_type"], cell["source"]) for cell in _read(script).cells]
    title, _, rest = cells[0].partition("\n")
    name = script.stem
    links = f"{{download}}`Notebook <{name}.ipynb>` · {{download}}`Script <{name}.py>`"
    return "\n\n".join([title, links, rest.strip(), *cells[1:]]) + "\n"


def write_notebooks(folder: Path = FOLDER) -> list[Path]:
    """Write the notebook of every script beside it."""
    made = []
    for script in sorted(folder.glob("*.py")):
        made.append(script.with_suffix(".ipynb"))
        made[-1].write_text(notebook_of(script), encoding="utf-8")
    return made


def _read(script: Path) -> Any:
    import jupytext

    return jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")


def _block(kind: str, source: str) -> str:
    return source if kind == "markdown" else f"```python\n{source}\n```"


if __name__ == "__main__":
    for path in write_notebooks():
        print(path)
