import runpy
from pathlib import Path

from kdzoo import NETWORKS

ZOO = Path(__file__).parents[1]


def test_the_table_of_networks_in_the_readme_is_what_the_command_beside_it_prints(capsys):
    runpy.run_module("kdzoo", run_name="__main__")  # python -m kdzoo
    printed = capsys.readouterr().out
    readme = (ZOO / "README.md").read_text()
    assert printed.count("\n") == 2 + len(NETWORKS)
    assert "python -m kdzoo" in readme
    assert printed in readme


def test_the_recipes_in_the_readme_are_those_that_are_shipped():
    rows = [line for line in (ZOO / "README.md").read_text().splitlines() if line.startswith("| `") and ".toml" in line]
    assert sorted(row.split("`")[1] for row in rows) == sorted(file.name for file in ZOO.glob("src/kdzoo/recipes/*.toml"))
