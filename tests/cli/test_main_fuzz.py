"""Whatever is written on the command line is planned or refused: exit code 0 or 2, a reason, and no traceback."""

import contextlib
import io
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdengine.cli.main import main

LONG, HUGE = "a" * 300, "9" * 30
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=10)


def words(text, *more):
    """Any of some words, or any text."""
    return st.sampled_from([*text.split(), *more]) | TEXT


MODELS = words(
    "resnet8 resnet14 resnet9 timm: timm:resnet8 timm:@x resnet8@num_classes=0 resnet8@depths=[1] torchvision:resnet19 python: "
    "python:sys:exit python:builtins:len python:..:x python:json:dumps@x=1 module:Net resnet8@a.b=1 resnet8@=1 "
    "timm:resnet8@img_size=big timm:resnet8@img_size=-1",
    *("", LONG, f"timm:{LONG}"),
)
DATA = words(
    "digits@train=8@test=8 digits@train=0 digits@train=8@test=8@name=x digits:8 digits@size=3 digts imagefolder: imagefolder:. "
    "imagefolder:~nobody/x hf:~nobody/x hf:./x python:sys:exit python:builtins:dict python:json:loads cifar10@root=3 "
    "cifar100@root=./nowhere",
    *(f"digits@train={HUGE}", f"imagefolder:{LONG}", f"hf:./{LONG}"),
)
PLUGINS = words(
    "st rkd fitnet rdk kdplugin-at kdplugin-mbd multi takd tensorboard kdzoo st:st st:x : ./nowhere.py nowhere.py:x . / "
    "multi:multi kdplugin-takd:",
    *("", f"{LONG}.py", f"/{LONG}/x"),
)
NAMES = words(
    "st.alpha st.temperature fitnet.hint_epochs fitnet.taps rkd.taps rkd.preset train.lr train.epochs seed train.batch_size "
    "train.optimizer train.device train.validation train.workers train.milestones train teacher_train.lr teacher_train "
    "student_input.size teacher_input.mean options methods data student"
)
LITERALS = words(
    "0 1 -1 0.5 1e308 1e-320 nan inf true [] [1,2] {} {a=1} '' stage2 stage9 layer* logits=embedding stages.pre cpu cuda:99 "
    "meta bf16 sgd adamw lion lookahead_sgd",
    *(HUGE, "9" * 400),
)
NUMBERS = st.integers().map(str) | LITERALS
ARGUMENTS = st.one_of(
    st.tuples(st.sampled_from(["--teacher", "--student"]), MODELS),
    st.tuples(st.just("--data"), DATA),
    st.tuples(st.just("--plugin"), PLUGINS),
    st.tuples(st.sampled_from(["--epochs", "--seed"]), NUMBERS),
    st.tuples(st.just("--recipe"), words("x.toml .. / repdistiller-cifar", LONG, f"{LONG}.toml")),
    st.tuples(st.just("--teacher-weights"), words("~nobody/x.pth . / x.pth", LONG)),
    st.tuples(st.just("-o"), st.builds("{}={}".format, NAMES, LITERALS)),
    st.tuples(TEXT.map("--{}".format)),
)
RUN = ["run", "--dry-run", "--plugin", "st", "--teacher", "resnet14", "--student", "resnet8", "--data", "digits@train=8@test=8"]


def said_by(*arguments):
    """What a command says on standard error; there is a reason where it is refused, and never a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    assert code in (0, 2)
    assert "Traceback" not in out.getvalue() + err.getvalue()
    assert err.getvalue().strip() or code == 0
    return err.getvalue()


@given(st.lists(ARGUMENTS, min_size=1, max_size=3))
def test_any_arguments_of_run_are_planned_or_refused_with_a_reason(arguments):
    said_by(*RUN, "-o", "train.device=cpu", *chain(*arguments))


LOOKING = ["inspect", "models", "data", "evaluate", "report", "plugins show", "benchmark", "predict nowhere"]
COMMANDS = st.sampled_from([*LOOKING, "export --to safetensors", "train --model", "compare --methods", "sweep --grid"])


@given(COMMANDS, TEXT.filter(lambda text: "/" not in text))
def test_any_word_behind_a_command_is_answered_or_refused_with_a_reason(command, text):
    said_by(*command.split(), text)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--teacher-weights", LONG], "There is no weights file"),
        (["--data", f"imagefolder:{LONG}"], "There is no folder"),
        (["--data", "imagefolder:~nobody/x"], "There is no folder '~nobody/x'"),
        (["--data", "python:sys:exit"], "'python:sys:exit' failed: SystemExit"),
        (["--data", "cifar10@root=3"], "cifar10 could not be loaded"),
        (["--student", "python:sys:exit"], "SystemExit"),
        (["--plugin", f"{LONG}.py"], "There is no file"),
        (["--recipe", LONG], "There is no recipe"),
        (["--recipe", f"{LONG}.toml"], "File name too long"),
        (["--seed", HUGE], "it must be less than 4294967296"),
        (["--epochs", HUGE], "it must be less than or equal to 10000000"),
        (["-o", f"student_input.size={HUGE}"], "a number of pixels below 65536 is needed"),
        (["-o", f"train.workers={HUGE}"], "it must be less than or equal to 1024"),
    ],
    ids=lambda part: part[:20] if isinstance(part, str) else part[0],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(arguments, reason):
    assert reason in said_by(*RUN, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [["evaluate"], ["run", "--resume"], ["compare", "--resume"], ["report"], [*RUN, "--out"]],
    ids=["evaluate", "resume", "resume-comparison", "report", "out"],
)
def test_a_folder_whose_name_is_too_long_is_refused(arguments):
    assert "File name too long: 'aaa" in said_by(*arguments, LONG)


@pytest.mark.parametrize("length", ["1e308", "1e400", HUGE])
def test_a_phase_that_never_ends_is_refused(length):
    reason = said_by(*RUN, "--plugin", "fitnet", "-o", f"fitnet.hint_epochs={length}")
    assert "The phase 'hint' would last" in reason or "it must be a finite number" in reason
