"""The picture of a table of results: how much each method gained over the plain student.

python benchmarks/gains.py docs/results/methods-gpu.md --out docs/results/gains.png --caption "ResNet-8x4 on CIFAR-100"
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from kdengine.report.palette import GRID, INK, LINES, MUTED

ROW = re.compile(r"^\| (?P<method>[\w+-]+) \| \d+ \| [\d.]+ \| (?P<gain>[+-][\d.]+) \|", flags=re.MULTILINE)


def gains_in(text: str) -> dict[str, float]:
    """The gain of every method in a table with the columns method, epochs, top-1 and gain, in percentage points."""
    return {row["method"]: float(row["gain"]) for row in ROW.finditer(text)}


def draw(gains: dict[str, float], caption: str, file: Path, floor: float) -> None:
    """Bars side by side, sorted; one below the floor is cut off there, and its number says where it ends."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted(gains, key=lambda name: -gains[name])
    figure, axes = plt.subplots(figsize=(11, 3.4), layout="constrained")
    axes.bar(
        names, [max(gains[name], floor) for name in names], color=[LINES[0] if gains[name] > 0 else MUTED for name in names]
    )
    for place, name in enumerate(names):
        if gains[name] < floor:
            axes.text(place, floor, f"{gains[name]:.0f}", ha="center", va="bottom", color="white", fontsize=7)
    axes.set_ylabel("gain over plain,\npercentage points", color=INK)
    axes.set_title(caption, loc="left", fontsize=10, color=INK)
    axes.tick_params(axis="x", rotation=90, labelsize=9, length=0)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.spines[:].set_visible(False)
    figure.savefig(file, dpi=140)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="a page of results")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    parser.add_argument("--caption", help="what was measured; by default the title of the page")
    parser.add_argument("--floor", type=float, default=-7.0, help="where longer bars are cut off")
    given = parser.parse_args()
    text = given.page.read_text(encoding="utf-8")
    draw(gains_in(text), given.caption or text.splitlines()[0].removeprefix("# "), given.out, given.floor)


if __name__ == "__main__":
    main()
