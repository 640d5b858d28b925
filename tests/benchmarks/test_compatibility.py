"""The benchmark that tries every timm family: how its families are carried, and its page; no family is tried here."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from kdengine import Launcher, Outcome, Registry, Resources

METHODS = Registry().all_methods(serving="classes")


@pytest.fixture
def compatibility(script):
    return script("compatibility")


def result(refusal=None, meta=False, methods=("st",)):
    cells = {role: dict.fromkeys(methods, refusal) for role in ("teaches a CNN", "is taught by a CNN", "teaches a transformer")}
    return {"model": "m", "meta": meta, "side": 64, "where": ["a machine"], "cells": cells}


class Pretended(Launcher):
    """Writes the results of each family instead of trying it, except those that ``fails`` says."""

    name = "pretended"

    def __init__(self, fails):
        super().__init__()
        self.fails, self.ended, self.patience = fails, [], {}

    def open(self, demand):
        assert Path(demand.expected["token"]["path"]).read_text() == demand.expected["token"]["text"]

    def at_once(self, lanes):
        return 1

    def resources(self, unit):
        return Resources(1)

    def start(self, unit):
        words = unit.arguments["args"]
        named = dict(zip(words[2::2], words[3::2], strict=True))
        family, patience = named["--family"], float(named["--patience"])
        self.patience.setdefault(family, []).append((patience, unit.arguments["timeout"]))
        if self.fails(family, patience):
            self.ended.append(Outcome(unit.name, "failed", "TimeoutExpired"))
        else:
            (Path(named["--notes"]) / f"{family}.json").write_text(json.dumps(result(None, patience == 0, METHODS)))
            self.ended.append(Outcome(unit.name, "done"))

    def wait(self, seconds):
        ended, self.ended = self.ended, []
        return ended

    def cancel(self):
        raise AssertionError("nothing asks these to stop")

    def close(self):
        pass


def carry(compatibility, notes, fails, families):
    launcher = Pretended(fails)
    compatibility.dispatch(Namespace(notes=notes, families=families, patience=3.0, limit=60.0), launcher, METHODS)
    return launcher.patience


def test_families_without_results_are_tried_and_those_that_fail_once_more_on_the_meta_device(compatibility, tmp_path):
    (tmp_path / "vgg.json").write_text(json.dumps(result(methods=METHODS)))
    asked = carry(
        compatibility, tmp_path, lambda family, patience: family == "vitamin" and patience > 0, ["vgg", "vitamin", "resnet"]
    )
    assert asked == {"vitamin": [(3.0, 60.0), (0.0, None)], "resnet": [(3.0, 60.0)]}
    assert [json.loads((tmp_path / f"{name}.json").read_text())["meta"] for name in ("vitamin", "resnet")] == [True, False]
    assert not (tmp_path / "units").exists()


def test_a_family_that_fails_for_good_leaves_its_log_and_the_others_their_results(compatibility, tmp_path, capsys):
    asked = carry(compatibility, tmp_path, lambda family, patience: family == "vgg", ["vgg", "resnet"])
    assert asked == {"vgg": [(3.0, 60.0), (0.0, None)], "resnet": [(3.0, 60.0)]}
    assert (tmp_path / "units").exists()
    assert "vgg: failed: TimeoutExpired" in capsys.readouterr().out
    assert (tmp_path / "resnet.json").exists()


@pytest.mark.parametrize(("meta", "given", "taken"), [(True, 3.0, 0), (False, 3.0, math.inf), (False, 0.0, 0)])
def test_of_a_family_with_results_only_the_methods_without_are_tried_as_those(
    compatibility, tmp_path, monkeypatch, meta, given, taken
):
    asked = []

    def tried(model, methods, patience):
        asked.append((model, methods, patience))
        return {**result(methods=methods), "where": "another machine"}

    monkeypatch.setattr(compatibility, "tried", tried)
    (tmp_path / "resnet.json").write_text(json.dumps(result("no map", meta)))
    family = compatibility.Family("resnet", tmp_path, ["rkd", "st"])
    assert family.missing == ["rkd"]
    family.complete(given)
    assert asked == [(compatibility.SMALLEST["resnet"], ["rkd"], taken)]
    assert not family.missing
    assert family.read()["where"] == ["a machine", "another machine"]
    assert family.read()["cells"]["teaches a CNN"] == {"st": "no map", "rkd": None}


def test_the_page_counts_the_cells_and_numbers_the_reasons(compatibility):
    page = compatibility.page({"resnet": result(), "vgg": result("no map"), "vit": result(meta=True)}, ["st"])
    assert "of 9 cells, 6 build and take a training step, and 3 (33.3 %) do not" in page
    lines = page.splitlines()
    assert "| resnet | m | 64 | ● ● ● |" in lines
    assert "| vgg | m | 64 | \N{MULTIPLICATION SIGN}1 \N{MULTIPLICATION SIGN}1 \N{MULTIPLICATION SIGN}1 |" in lines
    assert "| vit | m | 64 | ○ ○ ○ |" in lines
    assert "1. no map" in lines
