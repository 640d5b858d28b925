import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

TIMES = ("seconds", "images_per_second")
PAIR = ["--teacher", "resnet14", "--student", "resnet8"]


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in found]


def test_a_run_says_what_it_does_and_prints_teacher_and_student(finished):
    said, folder = finished
    for piece in (
        "Training timm:resnet14",
        "Distilling resnet8 <- timm:resnet14 (rkd)",
        "epoch 2/2",
        "rkd.angle",
        "test top-1",
    ):
        assert piece in said.err
    lines = [line.split() for line in said.out.splitlines()]
    result = json.loads((folder / "result.json").read_text())
    for role, name in (("teacher", "timm:resnet14"), ("student", "resnet8")):
        row = next(line for line in lines if line[0] == role)
        facts = result[role]
        assert row[1] == name
        assert f"{facts['parameters']:,}" in row
        assert [f"{facts['top1']:.2f}", f"{facts['best_top1']:.2f}"] == row[-5:-3]
    assert str(folder) in said.out


def test_result_json_holds_teacher_and_student(finished):
    _, folder = finished
    result = json.loads((folder / "result.json").read_text())
    for role in ("teacher", "student"):
        facts = result[role]
        assert 0 <= facts["top1"] <= facts["best_top1"] <= 100
        assert facts["top1"] <= facts["top5"] <= 100
        assert facts["seconds"] > 0
        assert facts["epochs"] == 2
    assert result["student"]["parameters"] < result["teacher"]["parameters"]
    assert 10e6 < result["student"]["flops"] < result["teacher"]["flops"]
    assert result["methods"] == ["rkd"]
    assert result["student"]["top1"] == rows(folder)[-1]["test_top1"]


@pytest.mark.slow
def test_the_students_weights_load_without_kdengine_and_give_the_reported_accuracy(finished, python):
    _, folder = finished
    code = f"""
        import json, sys
        import kdzoo, timm, torch
        from safetensors.torch import load_file
        from sklearn.datasets import load_digits
        torch.set_num_threads(1)
        facts = json.load(open({str(folder / "result.json")!r}))
        model = timm.create_model("resnet8", num_classes=10)
        model.load_state_dict(load_file({str(folder / "student.safetensors")!r}), strict=True)
        bunch = load_digits()
        target = torch.from_numpy(bunch.target)
        held_out = target.argsort(stable=True)[4::5].sort().values[:32]
        x = torch.from_numpy(bunch.images)[held_out].mul(255 / 16).round().div(255).float()
        x = x.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].repeat(1, 3, 1, 1)
        mean, std = (torch.tensor(facts["data"][key]).view(3, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            right = model.eval()((x - mean) / std).argmax(1) == target[held_out]
        assert "kdengine" not in sys.modules, "importing the zoo alone must be enough"
        print(float(right.double().mean()) * 100, facts["student"]["top1"])
    """
    measured, reported = map(float, python(code).split())
    assert measured == reported


@pytest.mark.slow
def test_run_toml_repeats_the_run(finished, kdengine, here):
    _, folder = finished
    said = kdengine("run", folder / "run.toml", "--out", "again", "--json")
    assert said.code == 0, said.err
    assert rows(here / "again") == rows(folder)
    first, second = (load_file(place / "student.safetensors") for place in (folder, here / "again"))
    assert all((first[key] == second[key]).all() for key in first)
    assert said.json["student"]["top1"] == rows(folder)[-1]["test_top1"]
    assert said.json["folder"] == "again"


def test_what_is_said_beside_a_file_wins(finished, kdengine, here):
    _, folder = finished
    said = kdengine("run", folder / "run.toml", "--epochs", 1, "-o", "rkd.angle=1", "--seed", 8, "--out", "other", "--json")
    settings = said.json["settings"]
    assert settings["train"]["epochs"] == 1
    assert settings["options"]["rkd"]["angle"] == 1.0
    assert settings["seed"] == 8
    assert settings["train"]["lr"] == 0.02


@pytest.mark.slow
def test_networks_with_inputs_of_their_own(kdengine, small, here):
    inputs = ["--data", "digits@train=128@test=64"]  # whose deviation stands below
    inputs += ["-o", "teacher_input.size=64", "-o", "teacher_input.mean=[0.485, 0.456, 0.406]"]
    plan = kdengine("run", "--plugin", "st", *PAIR, *small, *inputs, "--dry-run")
    lines = [line.split() for line in plan.out.splitlines()]
    assert ["teacher", "resnet14", "175,258", "3", "x", "64", "x", "64"] in lines
    assert ["student", "resnet8", "78,042", "3", "x", "32", "x", "32"] in lines
    assert "The teacher receives images of mean 0.485, 0.456, 0.406 and std 0.379" in plan.out
    said = kdengine("run", "--plugin", "st", *PAIR, *small, *inputs, "--out", "run", "--json")
    assert said.code == 0, said.err
    teacher, student = said.json["teacher"], said.json["student"]
    assert (teacher["input"]["size"], teacher["input"]["mean"]) == ([3, 64, 64], [0.485, 0.456, 0.406])
    data = said.json["data"]
    assert student["input"] == {"size": data["input_size"], "mean": data["mean"], "std": data["std"]}
    assert "resnet14 receives images of 3 x 64 x 64, mean 0.485 0.456 0.406, std 0.379" in " ".join(said.err.split())
    assert kdengine("run", "run/run.toml", "--out", "again", "--json").code == 0
    assert rows(here / "again") == rows(here / "run")
    assert kdengine("evaluate", "run", "--json").json["top1"] == student["top1"]


def test_two_methods_a_file_of_ones_own_and_json(kdengine, small, here):
    (here / "my_kd.py").write_text(METHOD)
    probe = ["--probe", "digits@train=64@test=32"]
    said = kdengine("run", "--plugin", "st", "--plugin", "./my_kd.py", *PAIR, *small, "-o", "mine.scale=0.5", *probe, "--json")
    assert said.code == 0, said.err
    assert said.json["methods"] == ["st", "mine"]
    assert [row["role"] for row in said.json["probe"]["networks"]][:2] == ["student", "untrained"]
    assert len(said.out.splitlines()) == 1
    (folder,) = (here / "runs").iterdir()
    assert folder.name.startswith("resnet8-st-mine-")
    assert rows(folder)[0]["terms"].keys() == {"task", "st.soft", "mine.loss"}


METHOD = """
from kdengine import Distiller

class Mine(Distiller):
    '''Pulls the logits together.'''

    name = "mine"

    class Options(Distiller.Options):
        scale: float = 1.0

    def forward(self, step):
        return {"loss": self.options.scale * (step.student.logits - step.teacher.logits).square().mean()}
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_how_to_resume_and_can(number, process, small, kdengine, tmp_path):
    out = tmp_path / "stopped"
    arguments = ["--plugin", "st", *PAIR, *small, "--data", "digits@train=128@test=64", "--epochs", 40]
    more = ["--out", out, "-o", "teacher_train.epochs=1"]
    said = process("run", *arguments, *more, interrupt_at="epoch  2/40  test", signal_to_send=number)
    assert said.code == 130
    assert "Traceback" not in said.err
    assert "kdengine: interrupted" not in said.err
    assert "Stopping after this step" in " ".join(said.err.split())
    assert f"To resume: kdengine run --resume {out}" in said.err
    assert not (out / "result.json").exists()
    done = rows(out)
    assert len(done) >= 2
    refused = kdengine("run", "--resume", out, "--epochs", len(done) + 1, "-o", "train.workers=0")
    assert refused.code == 2
    assert f"train.epochs is 40, got {len(done) + 1}" in refused.err
    said = kdengine("run", "--resume", out, "--epochs", len(done) + 1, "-o", "train.workers=0", "--override")
    assert said.code == 0, said.err
    assert rows(out)[: len(done)] == done
    assert len(rows(out)) == len(done) + 1
    again = kdengine("run", "--resume", out)
    assert again.code == 2
    assert "is finished" in again.err


def test_a_file_that_names_code_is_only_run_where_it_is_trusted(kdengine, small, here):
    (here / "my_kd.py").write_text(METHOD)
    (here / "mine.toml").write_text('methods = ["./my_kd.py"]\n')
    for arguments in (["run", "mine.toml"], ["run", "--recipe", "mine.toml"]):
        said = kdengine(*arguments, *PAIR, *small, "--dry-run")
        assert said.code == 2
        assert "'mine.toml' names code that would be run here: method './my_kd.py'" in said.err
        assert kdengine(*arguments, *PAIR, *small, "--dry-run", "--trust").code == 0


def test_a_run_that_is_repeated_elsewhere_says_that_its_numbers_may_differ(kdengine, finished, here):
    _, folder = finished
    for name in ("run.toml", "manifest.json"):
        shutil.copy(folder / name, here)
    assert "last digits" not in kdengine("run", "run.toml", "--dry-run").err
    manifest = json.loads((here / "manifest.json").read_text())
    (here / "manifest.json").write_text(json.dumps({**manifest, "threads": 96}))
    said = " ".join(kdengine("run", "run.toml", "--dry-run").err.split())
    assert f"threads: 96, now {torch.get_num_threads()}" in said
    assert "last digits" in said


def refused(said, here, cache, *pieces):
    """One paragraph on standard error, no traceback, nothing written."""
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    for piece in pieces:
        assert piece in said.err
    assert {path.suffix for path in here.iterdir()} <= {".py", ".toml", ".pth", ".safetensors"}
    assert not cache.exists()


RUN = ["run", "--plugin", "st"]
SCENES = ["--teacher", "seg:resnet14", "--student", "seg:resnet8", "--data", "digit-scenes@target=masks@size=32@train=4@test=2"]


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (["run", "--plugin", "rkdd", *PAIR], ["no plugin 'rkdd'", "'rkd'", "kdengine plugins"]),
        (["run", "--plugin", "fitnet+st", *PAIR], ["no plugin 'fitnet+st'", "--plugin fitnet --plugin st"]),
        (["train"], ["--model"]),
        (["run", "--plugin", "./nowhere.py", *PAIR], ["no file 'nowhere.py'"]),
        ([*RUN, "--teacher", "resnet14", "--student", "resnet9"], ["no network 'resnet9'", "'resnet8'", "kdengine models"]),
        ([*RUN, "--teacher", "timm:resnet3", "--student", "resnet8"], ["timm has no model 'resnet3'", "'resnet32'"]),
        ([*RUN, "--teacher", "torchvision:resnet19", "--student", "resnet8"], ["torchvision has no model", "'resnet18'"]),
        ([*RUN, "--teacher", "keras:resnet19", "--student", "resnet8"], ["no scheme 'keras:'", "timm:NAME"]),
        ([*RUN, "--teacher", "python:nowhere:make", "--student", "resnet8"], ["'nowhere' cannot be imported", "PYTHONPATH"]),
        ([*RUN, "--teacher", "python:./nets.py:make", "--student", "resnet8"], ["not a path: python:nets:factory"]),
        ([*RUN, "--teacher", "./nets.py", "--student", "resnet8"], ["no network './nets.py'", "Write python:nets:FACTORY"]),
        (["run", "--plugin", "at", *PAIR, "-o", "at.taps=layer2.0.cnv1"], ["'layer2.0.conv1'", "kdengine inspect"]),
        (["run", "--plugin", "at", *PAIR, "-o", "at.taps=stage9"], ["no 'stage9'", "stage3"]),
        (["run", "--plugin", "rkd", *PAIR, "-o", "rkd.angel=5"], ["'rkd.angel'", "'angle'"]),
        ([*RUN, *PAIR, "-o", "st.temperature=-1"], ["st.temperature = -1", "greater than 0"]),
        ([*RUN, *PAIR, "-o", "st.temperature=hot"], ["st.temperature = 'hot'", "must be a number"]),
        ([*RUN, *PAIR, "-o", "rkd.angle=5"], ["'rkd'", "not a method of this run"]),
        ([*RUN, *PAIR, "-o", "train.lrr=5"], ["'train.lrr'", "'lr'"]),
        ([*RUN, *PAIR, "-o", "st.temperature"], ["'st.temperature' is not an option", "VALUE"]),
        ([*RUN, *PAIR, "-o", "=5"], ["'=5' is not an option"]),
        ([*RUN, *PAIR, "-o", "batch_size=5"], ["no setting 'batch_size'", "'train.batch_size'"]),
        ([*RUN, *PAIR, "-o", "train.optimizer=sdg"], ["train.optimizer = 'sdg'", "'sgd'"]),
        ([*RUN, *PAIR, "-o", "train.device=toaster"], ["toaster", "auto, cpu, cuda, mps"]),
        ([*RUN, *PAIR, "-o", "train.precision=fp8"], ["train.precision = 'fp8'", "bf16"]),
        ([*RUN, *PAIR, "-o", "teacher_input.size=big"], ["teacher_input.size = 'big'", "224"]),
        ([*RUN, *PAIR, "-o", "teacher_input=64"], ["teacher_input.size=224"]),
        ([*RUN, *PAIR, "-o", "student_input.std=[0.5]"], ["student_input.std = [0.5]", "3 channels"]),
        ([*RUN, *PAIR, "-o", "studnt_input.size=64"], ["'studnt_input'", "'student_input'"]),
        ([*RUN, *PAIR, "--epochs", "0"], ["train.epochs = 0"]),
        ([*RUN, *PAIR, "--epochs", "many"], ["--epochs"]),
        ([*RUN, *PAIR, "--data", "digts"], ["no data set 'digts'", "'digits'"]),
        ([*RUN, *PAIR, "--data", "imagefolder:nowhere"], ["no folder 'nowhere'"]),
        ([*RUN, *PAIR, "--data", "hf:./nowhere"], ["nowhere"]),
        ([*RUN, *PAIR, "--data", "digits@train=0"], ["@train"]),
        ([*RUN, *PAIR, "--probe", "digts"], ["no data set 'digts'", "'digits'"]),
        ([*RUN, *SCENES, "--probe", "digits@train=8@test=8"], ["'segmentation' are pixels", "Leave out --probe"]),
        ([*RUN, *PAIR, "--recipe", "nowhere"], ["no recipe 'nowhere'"]),
        ([*RUN, *PAIR, "--recipe", "nowhere.toml"], ["Cannot read 'nowhere.toml'"]),
        ([*RUN, *PAIR, "--override"], ["--override belongs to --resume"]),
        (["run", "nowhere.toml"], ["Cannot read 'nowhere.toml'"]),
        ([*RUN, *PAIR, "--teacher-weights", "nowhere.pth"], ["nowhere.pth"]),
        ([*RUN, "--teacher", "resnet14"], ["--student"]),
        ([*RUN, "--student", "resnet8"], ["no teacher", "--teacher"]),
        (["run", *PAIR], ["no method", "--plugin"]),
        ([*RUN, "--teacher", "resnet14@num_classes=7", "--student", "resnet8"], ["resnet14@num_classes=7", "10 classes"]),
        ([*RUN, "--teacher", "resnet14", "--student", "resnet8@depths=7"], ["resnet8@depths=7", "cannot be built"]),
        (["run", "--resume", "nowhere"], ["not a run folder"]),
        (["run", "--resume", "nowhere", "--recipe", "x"], ["--resume takes --recipe from the folder"]),
        ([*RUN, *PAIR, "--nonsense"], ["No such option", "--nonsense"]),
        ([*RUN, *PAIR, "--out", "file.toml"], ["is a file"]),
    ],
)
def test_a_mistake_ends_with_2_and_one_paragraph_and_nothing_written(arguments, pieces, kdengine, here, own_cache):
    (here / "file.toml").write_text("")
    refused(kdengine(*arguments), here, own_cache, *pieces)


MISTAKES = """
teacher = 5
methods = ["rkd", "fitnet", "sst"]
seeed = 1
lr = 0.1
[train]
lr = -1
epoch = 3
epochs = "many"
nesterov = "perhaps"
milestones = [0.5, 200]
[train.sgd]
momentum = 0.9
[teacher_train]
lrr = 2
[student_input]
size = "big"
[rkd]
angle = 5
[options.rkd]
angel = 1
[options.fitnet]
hint_epochs = "x"
kernel = 4
[options.at]
p = 2
"""
ANSWERS = """
kdengine: There is no network to train. Name one, for example --student resnet8.
There is no option 'train.epoch'. Did you mean 'epochs'?
There is no option 'train.sgd'. It has epochs, batch_size,
There is no option 'teacher_train.lrr'. Did you mean 'lr'?
There is no option 'seeed'. Did you mean 'seed'?
There is no option 'lr'. Did you mean 'train.lr'?
There is no option 'rkd'. The options of a method belong in [options.rkd].
teacher = 5: it must be text.
train.epochs = 'many': it must be a whole number.
train.lr = -1: it must be greater than 0.
train.nesterov = 'perhaps': it must be true or false.
train.milestones.1 = 200: it must be less than 1.
student_input.size = 'big': a number of pixels below 65536 is needed, such as 224, or [ROWS, COLUMNS].
There is no plugin 'sst'. Did you mean 'st' or 'nst'?
There are options for 'at', which is not a method of this run. This run has: rkd, fitnet, train,
There is no option 'rkd.angel'. Did you mean 'angle'?
fitnet.hint_epochs = 'x': it must be a number.
fitnet.kernel = 4: it must be 1, 3 or 5.
"""


def test_all_mistakes_of_a_file_are_told_at_once(kdengine, here, own_cache):
    (here / "run.toml").write_text(MISTAKES)
    said = kdengine("run", "run.toml", "--dry-run")
    refused(said, here, own_cache)
    for line, answer in zip(said.err.strip().splitlines(), ANSWERS.strip().splitlines(), strict=True):
        assert line.startswith(answer)


def test_mistakes_in_the_methods_alone_are_told_at_once(kdengine, here, own_cache):
    said = kdengine("run", "--plugin", "fitnett", "--plugin", "st", *PAIR, "-o", "st.alpha=hot", "-o", "fitnett.kernel=1")
    refused(
        said, here, own_cache, "There is no plugin 'fitnett'. Did you mean 'fitnet'?", "st.alpha = 'hot': it must be a number."
    )
    assert len(said.err.splitlines()) == 2


def test_a_file_that_is_no_toml_is_refused(kdengine, here, own_cache):
    (here / "run.toml").write_text("student = resnet8\n")
    refused(kdengine("run", "run.toml"), here, own_cache, "'run.toml' is not valid TOML", "line 1")


def test_a_plugin_file_that_fails_is_told_in_one_paragraph(kdengine, here, own_cache):
    (here / "broken.py").write_text("import nonexistent_package\n")
    said = kdengine("run", "--plugin", "broken.py", *PAIR)
    refused(said, here, own_cache, "broken.py", "nonexistent_package")
    assert len(said.err.strip().splitlines()) == 1


def test_weights_that_do_not_fit_are_told(kdengine, here, own_cache, finished):
    _, folder = finished
    shutil.copy(folder / "student.safetensors", here / "small.safetensors")
    refused(
        kdengine(*RUN, *PAIR, "--teacher-weights", "small.safetensors"), here, own_cache, "do not match", "layer1", "resnet14"
    )
    (here / "text.pth").write_text("hello")
    refused(
        kdengine(*RUN, *PAIR, "--teacher-weights", "text.pth"),
        here,
        own_cache,
        "'text.pth' is not a readable weights file: KeyError",
    )


def test_a_folder_that_holds_a_run_is_left_alone(kdengine, finished):
    _, folder = finished
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    said = kdengine(*RUN, *PAIR, "--out", folder)
    assert said.code == 2
    assert "already holds a run" in said.err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("arguments", [["run", "--plugin", "rkdd", *PAIR], ["run", "--nonsense"]])
def test_with_json_a_mistake_is_one_object_on_standard_output_too(arguments, kdengine):
    said = kdengine(*arguments, "--json")
    assert said.code == 2
    assert said.json["error"].strip() in said.err
    assert said.err
