"""Runs the code cells of a notebook in a process of their own, and keeps what a notebook would show below each.

``python -m kdengine_docs.cells FILE`` takes the cells as a JSON list on standard input and writes their outputs to a file. No
kernel is needed: cells of scripts use nothing that only a kernel has.
"""

from __future__ import annotations

import ast
import io
import json
import linecache
import os
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

__all__ = ["Output", "outputs_of"]

Output = dict[str, Any]
"""An output as the notebook format has it."""
DPI = 72


def outputs_of(cells: Sequence[str]) -> list[list[Output]]:
    """Run cells one after another in an empty folder: the outputs of each.

    Raises:
        RuntimeError: a cell fails; the message is its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "outputs.json")
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": path}
        command = [sys.executable, "-m", "kdengine_docs.cells", str(file)]
        given = json.dumps(list(cells))
        done = subprocess.run(command, cwd=folder, env=environment, input=given, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"A cell fails:\n{done.stderr}")
        found: list[list[Output]] = json.loads(file.read_text(encoding="utf-8"))
        return found


def run_cells(cells: Sequence[str]) -> Iterator[list[Output]]:
    """Run cells in one namespace: the outputs of each."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(cells, 1):
        yield list(_run(source, names, number))


def _run(source: str, names: dict[str, Any], number: int) -> Iterator[Output]:
    """What one cell prints, its pictures, and the value of its last expression."""
    file, printed = f"cell {number}", io.StringIO()
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks and docstrings
    tree = ast.parse(source, file)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(tree, file, "exec"), names)
        value = eval(compile(ast.Expression(last.value), file, "eval"), names) if isinstance(last, ast.Expr) else None
        shown = None if value is None else _shown(value)
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue()}
    for picture in _pictures():
        data = {"image/png": picture, "text/plain": "<Figure>"}
        yield {"output_type": "display_data", "data": data, "metadata": {}}
    if shown:
        yield {"output_type": "execute_result", "data": shown, "execution_count": number, "metadata": {}}


def _shown(value: object) -> dict[str, str]:
    """A value as text, and as HTML if it has such a form."""
    html = getattr(value, "_repr_html_", lambda: None)()
    return {"text/plain": repr(value), **({"text/html": html} if html else {})}


def _pictures() -> Iterator[str]:
    """Every figure that is open, in base64; they are closed."""
    if "matplotlib.pyplot" not in sys.modules:
        return
    from matplotlib import pyplot

    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        yield b64encode(file.getvalue()).decode()
    pyplot.close("all")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(list(run_cells(json.load(sys.stdin)))), encoding="utf-8")
