"""A report as one self-contained HTML page: no network, no other files, readable without scripts."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdengine._version import __version__
from kdengine.report.classes import class_section
from kdengine.report.columns import axis_label, in_words, number, with_low_best
from kdengine.report.curves import TEST, TRAIN, Plot
from kdengine.report.differences import common_scoring, obstacles
from kdengine.report.first_screen import first_screen
from kdengine.report.grid import Grid
from kdengine.report.grouped import tables_of
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.markup import figure, heat_table, table, tag, text
from kdengine.report.palette import SHADES
from kdengine.report.pastrun import FINISHED, PastRun, find_runs
from kdengine.report.settings_section import settings_section
from kdengine.report.svg import to_svg
from kdengine.report.table import Table
from kdengine.report.tradeoff import Tradeoff
from kdengine.storage.names import SAMPLES

if TYPE_CHECKING:
    from kdengine.report.drawing import Style

__all__ = ["write_page"]

ASSETS = Path(__file__).with_name("assets")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_page(path: str | Path, folders: Sequence[str | Path], tables: Sequence[Table] | None = None) -> None:
    """Write a page about some runs.

    Args:
        path: the file.
        folders: run folders, or folders with run folders below them.
        tables: the results to show; by default :func:`kdengine.report.grouped.tables_of`.

    Raises:
        SettingsError: a folder holds no run, or the runs have different tasks.
        OSError: the file cannot be written.
    """
    grid = Grid.within(folders[0]) if len(folders) == 1 else None
    page = Page(find_runs(folders), tables or tables_of(folders), grid)
    Path(path).write_text(page.html, encoding="utf-8", errors="backslashreplace")  # names of files may be no text at all


class Page:
    """A page about some runs.

    Args:
        runs: in any state.
        results: the first tables.
        grid: the results of a sweep, if the runs are one.
    """

    def __init__(self, runs: Sequence[PastRun], results: Sequence[Table], grid: Grid | None = None) -> None:
        self.runs = runs
        self.results = results
        self.grid = grid
        self.scoring = common_scoring(runs)
        self.plot = Plot(runs)

    @property
    def html(self) -> str:
        """The whole document."""
        title = text(self.title)
        sections = [self.grid_section(), self.results_section(), self.tradeoff_section(), self.classes_section()]
        sections += [self.samples_section(), self.curves_section(), self.terms_section()]
        body = [tag("h1", title), self.answer(), self.caption(), *sections]
        body += [settings_section(self.plot.series, self.runs), tag("p", f"kdengine {text(__version__)}", class_="quiet")]
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>\n{_variables()}{_asset('page.css')}</style>\n</head>\n<body>\n"
            + "\n".join(filter(None, body))
            + f"\n<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
        )

    @property
    def title(self) -> str:
        """``resnet8 taught by resnet32 on cifar100``."""
        taught = [run for run in self.runs if run.settings.methods] or self.runs
        students, teachers, data = (
            ", ".join(dict.fromkeys(str(getattr(run.settings, role)) for run in taught if getattr(run.settings, role)))
            for role in ("student", "taught_by", "data")
        )
        return f"{students} taught by {teachers} on {data}" if teachers else f"{students} on {data}"

    @cached_property
    def board(self) -> Leaderboard | None:
        """The table of the comparison whose lanes the runs are, if they are those of one."""
        of_one = self.runs[0].comparison is not None and len({run.comparison for run in self.runs}) == 1
        return Leaderboard.of_runs(self.runs) if of_one else None

    def answer(self) -> str:
        """Of a comparison, what it has found, in words and one figure; what makes numbers mean nothing stands between them."""
        answer, drawn = first_screen(self.board, self.grid is not None) if self.board else ("", "")
        return "\n".join(filter(None, (answer, self.warning(), drawn)))

    def caption(self) -> str:
        """What the one table is about; each of several tables has its own caption above it."""
        return tag("p", text(self.results[0].caption), class_="quiet") if len(self.results) == 1 else ""

    def warning(self) -> str:
        """Why the runs should be compared with care, which numbers mean nothing, and which runs did not finish."""
        mixed = [text(reason) for reason in obstacles(self.runs)]
        ended = [f"{text(run.folder)}, epoch {len(run.rows)}: {text(run.news)}" for run in self.runs if run.state != FINISHED]
        doubtful = [text(warning) for warning in self._warnings()]
        parts = [
            ("These numbers mean little.", doubtful),
            ("These runs differ; compare with care.", mixed),
            ("Not every run is finished.", ended),
        ]
        return "\n".join(
            tag("div", f"<p>{heading}</p><ul>{''.join(tag('li', line) for line in lines)}</ul>", class_="warning")
            for heading, lines in parts
            if lines
        )

    def _warnings(self) -> list[str]:
        """Those of the comparison, or else of every run, with its folder."""
        if self.board is not None:
            return list(self.board.warnings)
        return [f"{run.folder}: {warning}" for run in self.runs for warning in run.warnings]

    def grid_section(self) -> str:
        """The scores of all cells of a sweep, the better the deeper in colour."""
        if self.grid is None:
            return ""
        *names, last = self.grid.axes
        headline = self.scoring.headline
        rows = list(zip(self.grid.rows, self.grid.scores(), strict=True))
        heads = [axis.name for axis in names]
        written = partial(number, headline)
        cells = heat_table(heads, last.name, last.values, rows, written, headline.higher_is_better)
        text_below = f"Last {in_words(headline)} on the test images; an empty cell failed or is not finished."
        return f"<h2>Grid</h2>\n{cells}{tag('p', text(text_below), class_='quiet')}"

    def samples_section(self) -> str:
        """Test images of one run with their targets and what the networks say, where its task draws them."""
        file = self.runs[0].folder / SAMPLES
        if len(self.runs) > 1 or not file.is_file():
            return ""
        who = "the teacher and the student" if self.runs[0].settings.teacher else "the network"
        shown = f"Test images, then their targets, and what {who} made of them."
        source = f"data:image/png;base64,{b64encode(file.read_bytes()).decode()}"
        picture = f'<img src="{source}" alt="{text(shown)}" class="samples">'
        return f"<h2>Pictures</h2>\n{picture}{tag('p', text(shown), class_='quiet')}"

    def results_section(self) -> str:
        """The table, and the images on which its best epochs were chosen."""
        held_out = all(run.settings.train.validation or run.data.get("validation_images") for run in self.runs)
        chosen = "images held out from training" if held_out else "the test images, so compare by the last"
        note = tag("p", f"The best epoch was chosen on {chosen}.", class_="quiet")
        low = with_low_best(self.scoring)
        cells = [
            ("" if len(self.results) == 1 else tag("p", text(one.caption)))
            + table(one.columns, one.rows, sortable=True, low_is_best=low)
            for one in self.results
        ]
        return f"<h2>Results</h2>\n{''.join(cells)}{note}"

    def tradeoff_section(self) -> str:
        """Score over latency, if the runs are a comparison of several students that were measured."""
        tradeoff = Tradeoff.of(self.board) if self.board else None
        if tradeoff is None:
            return ""
        drawn = tag("div", figure(to_svg(tradeoff.figure(narrow=True), "tradeoff", tradeoff.title)), class_="gains")
        note = tag("p", "Whiskers are one standard deviation to each side.", class_="quiet") if self.plot.trials > 1 else ""
        return f"<h2>{text(tradeoff.title)}</h2>\n{drawn}{note}"

    def classes_section(self) -> str:
        """The classes of a single run, if they have been counted."""
        return class_section(self.runs[0]) if len(self.runs) == 1 else ""

    def curves_section(self) -> str:
        """The scores on test and training images, and the legend."""
        panels = [
            figure(to_svg(self.plot.scores(split), split, title), title)
            for split, title in ((split, self.plot.title(split)) for split in (TEST, TRAIN))
        ]
        band = " Bands are one standard deviation to each side." if self.plot.trials > 1 else ""
        note = tag("p", f"Numbers: {text(self.plot.key)}.{band}", class_="quiet")
        heading = text(f"Learning curves: {axis_label(self.scoring.headline)}")
        return f"<h2>{heading}</h2>\n{tag('div', ''.join(panels), class_='panels')}\n{self.legend()}{note}"

    def legend(self) -> str:
        """Every series with its line, the best first; the teachers before them."""
        headline = self.scoring.headline
        lines = [_legend_line("muted", "6 3", number(headline, score), name) for name, score in self.plot.teachers.items()]
        for index in self.plot.ranked:
            series, style = self.plot.series[index], self.plot.styles[index]
            label = series.label + (f" ({series.note})" if series.note else "")
            last = number(headline, series.last, nothing="\N{EN DASH}")
            lines.append(_legend_line(_shade_of(style), _dash_array(style), last, label, str(index)))
        return tag("ul", "\n".join(lines), class_="legend")

    def terms_section(self) -> str:
        """The loss terms of every series, each series in a panel of its own."""
        panels = [
            figure(to_svg(self.plot.terms(index), f"terms{index}", f"Terms of {label}"), label)
            for index in self.plot.with_terms
            for label in [self.plot.series[index].label]
        ]
        if not panels:
            return ""
        said = f"Means over an epoch, weighted as in the sum. A dotted line marks the start of a phase. {self.plot.loss.note}"
        note = tag("p", said.rstrip(), class_="quiet")
        return f"<h2>Terms of the loss over epochs</h2>\n{note}{tag('div', ''.join(panels), class_='small')}"


def _variables() -> str:
    """The colours as variables of the style sheet, for both colour schemes."""
    light = "".join(f"--{shade.name}: {shade.light};" for shade in SHADES)
    dark = "".join(f"--{shade.name}: {shade.dark};" for shade in SHADES)
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _legend_line(shade: str, dashes: str, score: str, label: str, series: str = "") -> str:
    line = f'<line x1="0" y1="5" x2="34" y2="5" style="stroke: var(--{shade}); stroke-width: 2.2; stroke-dasharray: {dashes}"/>'
    picture = f'<svg viewBox="0 0 34 10" aria-hidden="true">{line}</svg>'
    return tag("li", f"{picture}<b>{text(score)}</b><span>{text(label)}</span>", data_series=series)


def _shade_of(style: Style) -> str:
    return next(shade.name for shade in SHADES if shade.light == style.colour)


def _dash_array(style: Style) -> str:
    return "none" if style.dashes == "-" else " ".join(f"{1.8 * length:g}" for length in style.dashes[1])
