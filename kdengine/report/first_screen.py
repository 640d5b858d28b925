"""What a page about a comparison begins with: which method, how sure that is, and at what cost, in words and one figure."""

from __future__ import annotations

from functools import partial

from kdengine.report.answer import COMBINATION, METHOD, answer_of
from kdengine.report.gains import Gains
from kdengine.report.leaderboard import Leaderboard
from kdengine.report.markup import figure, tag, text
from kdengine.report.svg import to_svg

__all__ = ["first_screen"]


def first_screen(board: Leaderboard, is_sweep: bool) -> tuple[str, str]:
    """The words and the figure, as HTML; each is empty if there is nothing to say or to draw.

    Args:
        board: the table of the comparison.
        is_sweep: whether its lanes are combinations of options.
    """
    return _words(board, COMBINATION if is_sweep else METHOD), _figure(board)


def _words(board: Leaderboard, noun: str) -> str:
    answer = answer_of(board, noun)
    if answer is None:
        return ""
    whole = partial(_whole, text(board.scoring.headline.label))
    words = tag("p", whole(answer.lead), class_="lead") + (tag("p", whole(" ".join(answer.further))) if answer.further else "")
    every = [(label, " ".join((one.lead, *one.further))) for label, one in answer.students]
    students = [tag("li", f"<b>{text(label)}</b>: {whole(sentences)}") for label, sentences in every]
    return tag("div", words + (tag("ul", "".join(students)) if students else ""), class_="answer")


def _whole(name: str, sentence: str) -> str:
    """A sentence in which the name of the measure, such as ``top-1``, is not broken at its hyphen."""
    return text(sentence).replace(name, tag("span", name, class_="whole"))


def _figure(board: Leaderboard) -> str:
    gains = Gains.of(board)
    if gains is None:
        return ""
    drawn = figure(to_svg(gains.figure(), "gains", gains.title))
    return tag("div", drawn + tag("p", text(gains.note), class_="quiet"), class_="gains")
