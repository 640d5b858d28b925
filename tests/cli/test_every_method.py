"""Every installed method from the command line, by default options, on real digits; and the chain of the seeds."""

import json
import math

import kdzoo  # noqa: F401  registers the small networks with timm
import pytest
import timm
import torch
from safetensors.torch import save_file

from kdengine import Registry

PAIR = ["--teacher", "resnet20", "--student", "resnet8"]
STAGES = {"fitnet": ["hint"], "fsp": ["fsp"], "ab": ["init"], "ft": ["paraphraser"], "multi": ["hint"]}
CHAINS = ("takd", "multi")
OPTIONS = {"phi-s": ["-o", "phi-s.batches=1"]}
"""It looks at more batches first than there are here."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of weights for teachers, by name."""
    folder = tmp_path_factory.mktemp("teachers")

    def make(name):
        file = folder / f"{name}.safetensors"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            save_file(timm.create_model(name, num_classes=10).state_dict(), file)
        return file

    return make


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def distil(kdengine, here, weights):
    """Runs ``kdengine run`` with a method on a pair, and returns its result and its rows."""

    def run(method, teacher, student, *options, images=64):
        data = ["--data", f"digits@train={images}@test={images // 2}", "--epochs", "1"]
        train = [f"train.{setting}" for setting in ("precision=fp32", "device=cpu", "lr=0.01", f"batch_size={images // 2}")]
        settings = [part for setting in train for part in ("-o", setting)]
        pair = ["--teacher", teacher, "--teacher-weights", weights(teacher), "--student", student]
        said = kdengine("run", "--plugin", method, *pair, *data, *settings, *options, "--out", "run", "--json")
        assert said.code == 0, said.err
        return said.json, rows(here / "run")

    return run


@pytest.mark.sample(4)
@pytest.mark.parametrize("method", Registry().all_methods(serving="classes"))
def test_a_method_runs_from_the_command_line_as_it_comes(method, distil):
    result, found = distil(method, "resnet20", "resnet8", *OPTIONS.get(method, ()))
    assert result["method"] == method
    assert result["student"]["name"] == "resnet8"
    assert 0 <= result["student"]["top1"] <= 100
    links = 2 if method in CHAINS else 1
    assert [row["phase"] for row in found] == [*STAGES.get(method, []), "joint"] * links
    terms = {name: value for row in found for name, value in row["terms"].items()}
    assert all(math.isfinite(value) for value in terms.values())
    assert any(name != "task" and value != 0 for name, value in terms.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "assistant", "student"), [("cnn8", "cnn12", "cnn16"), ("cifar_resnet50", "resnet71", "resnet98")]
)
def test_hints_and_soft_targets_along_a_chain_report_the_student(teacher, assistant, student, distil):
    """The seed's own chain crashes for its ResNets, and measures the assistant in place of the student."""
    options = ["-o", f"takd.assistants={assistant}", "-o", "fitnet.preset=motakuss", "-o", "st.preset=motakuss"]
    result, found = distil("multi", teacher, student, *options, images=32)
    assert [(row["network"], row["phase"]) for row in found] == [
        (assistant, "hint"),
        (assistant, "joint"),
        (student, "hint"),
        (student, "joint"),
    ]
    assert result["student"]["name"] == student
    assert result["student"]["top1"] == found[-1]["test_top1"]
    assert [(network["name"], network["top1"]) for network in result["assistants"]] == [(assistant, found[1]["test_top1"])]
    size = sum(value.numel() for value in timm.create_model(student, num_classes=10).parameters())
    assert result["student"]["parameters"] == size


def test_the_list_of_plugins_names_every_method_with_category_source_and_options(kdengine):
    methods = {method["name"]: method for method in kdengine("plugins", "--json").json["methods"]}
    assert set(methods) == set(Registry().all_methods())
    for method in methods.values():
        assert method["category"] in ("response", "multi-connection", "shared-representation", "relational")
        assert len(method["source"]) > 20
        assert all(option["help"] for option in method["options"].values())
    assert "fitnet.mode" in methods["multi"]["options"]
