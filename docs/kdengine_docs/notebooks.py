"""Notebooks, and pages of this site, from scripts in percent format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdengine_docs.cells import outputs_of

__all__ = ["as_page", "cells_of", "notebook_of", "write_notebooks"]

FOLDER = Path(__file__).parents[1] / "notebooks"


def notebook_of(script: Path, run: bool = False) -> str:
    """A script as a notebook; without outputs, the same text for the same script.

    Args:
        script: in percent format.
        run: whether its cells are run, so that their outputs stand in it.

    Raises:
        RuntimeError: a cell fails.
    """
    import jupytext
    import nbformat

    notebook = _read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    for number, outputs in enumerate(outputs_of([cell["source"] for cell in code]) if run else (), 1):
        code[number - 1]["execution_count"] = number
        code[number - 1]["outputs"] = nbformat.from_dict(outputs)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return f"{jupytext.writes(notebook, fmt='ipynb').rstrip()}\n"


def cells_of(notebook: str) -> list[tuple[str, str]]:
    """Kind and source of every cell, without what running it has left."""
    import nbformat

    return [(cell["cell_type"], cell["source"]) for cell in nbformat.reads(notebook, as_version=4).cells]


def as_page(script: Path) -> str:
    """A script as Markdown, with links to itself and to its notebook below the title."""
    cells = [_block(cell["cell_type"], cell["source"]) for cell in _read(script).cells]
    title, _, rest = cells[0].partition("\n")
    name = script.stem
    links = f"{{download}}`Notebook <{name}.ipynb>` · {{download}}`Script <{name}.py>`"
    return "\n\n".join([title, links, rest.strip(), *cells[1:]]) + "\n"


def write_notebooks(folder: Path = FOLDER) -> list[Path]:
    """Write the notebook of every script beside it, with its outputs; that takes minutes, because they train."""
    made = []
    for script in sorted(folder.glob("*.py")):
        made.append(script.with_suffix(".ipynb"))
        made[-1].write_text(notebook_of(script, run=True), encoding="utf-8")
    return made


def _read(script: Path) -> Any:
    import jupytext

    return jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")


def _block(kind: str, source: str) -> str:
    return source if kind == "markdown" else f"```python\n{source}\n```"


if __name__ == "__main__":
    for path in write_notebooks():
        print(path)
