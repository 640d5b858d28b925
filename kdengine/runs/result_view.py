"""A result in one line, and as a small table for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from kdengine.config.validation import shown
from kdengine.storage.scores import Scoring

__all__ = ["as_html", "in_one_line", "teachers_in"]


def teachers_in(teacher: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The facts to list about what taught a run: of one teacher its own; of several those of all together, then of each."""
    return [] if not teacher else [teacher, *teacher.get("members", ())]


def in_one_line(facts: Mapping[str, Any], scoring: Scoring, folder: object) -> str:
    """``Result(resnet8 taught by timm:resnet32 (rkd), top-1 99.16 %, best 99.16 %, in 'runs/a')``; long names are cut."""
    student, teacher, headline = facts["student"], facts.get("teacher"), scoring.headline
    taught = f" taught by {_short(teacher['name'])} ({_short(facts.get('method', ''))})" if teacher else ""
    last, best = student.get(headline.name), student.get(f"best_{headline.name}")
    scores = [f"{headline.label} {headline.shown(last)}"] if last is not None else []
    scores += [f"best {headline.shown(best)}"] if best is not None else []
    return f"Result({', '.join([_short(student['name']) + taught, *scores])}, in {shown(str(folder))})"


def as_html(facts: Mapping[str, Any], scoring: Scoring, folder: object) -> str:
    """Teacher and student with their scores, as a table."""
    headline = scoring.headline
    heads = ["", "network", "method", f"last {headline.title}", f"best {headline.title}", "parameters"]
    rows = [heads]
    for role, part in (*(("teacher", one) for one in teachers_in(facts.get("teacher"))), ("student", facts["student"])):
        scores = [part.get(headline.name), part.get(f"best_{headline.name}")]
        written = ["" if score is None else headline.shown(score) for score in scores]
        method = str(facts.get("method", "")) if role == "student" else ""
        rows.append([role, part["name"], method, *written, f"{part['parameters']:,}" if "parameters" in part else ""])
    lines = [_row("td" if number else "th", cells) for number, cells in enumerate(rows)]
    return f"<table>{''.join(lines)}</table><p>Run folder: <code>{escape(str(folder))}</code></p>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:12]}...{name[-9:]}"
