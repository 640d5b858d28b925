"""What is pushed is what the run deploys, loads with timm or with kdengine, and says where it comes from."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import kdzoo  # noqa: F401  registers the networks with timm
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from kdengine import Comparison, Distiller, Engine, SettingsError, StorageError, push
from kdengine.config.settings import Settings
from kdengine.runs.past_student import PastStudent
from kdengine.shipping.model_card import PIPELINES, without_home
from kdengine.shipping.predict import predict
from kdengine.shipping.provenance import origin_of_student, origins_of_teachers
from kdengine.shipping.timm_form import write_in_timm_form
from kdengine.tasks import BUILT_IN

DATA = "digits@train=16@test=16"
FAST = {"precision": "fp32", "device": "cpu", "batch_size": 8, "lr": 0.02, "epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a student and a teacher of the zoo; its teacher was trained first."""
    out = tmp_path_factory.mktemp("run") / "rkd"
    return Engine("timm:resnet14", "resnet8", ["rkd"], DATA, out=out, ema=0.9, **{**FAST, "epochs": 2}).fit().folder


@pytest.fixture
def written(tmp_path):
    """Writes the folder that would be pushed."""

    def write(run, repo="me/model", **options):
        facts = push(run, repo, dry_run=True, out=tmp_path / "out", **options)
        assert facts["url"] is None
        return facts, tmp_path / "out"

    return write


@pytest.fixture
def pictures(tmp_path, digits):
    """Test images as files."""
    for number, pixels in enumerate(digits.test.images[:3]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(3)]


@pytest.fixture
def api(monkeypatch):
    """A hub that only keeps what it is asked to do."""
    calls = []

    class Api:
        def __init__(self, **options):
            calls.append(("api", options))

        def create_repo(self, repo_id, **options):
            calls.append(("create", repo_id, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/someone/{repo_id.rpartition('/')[2]}")

        def upload_folder(self, *, folder_path, **options):
            calls.append(("upload", {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}, options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    return calls


def images_of(digits, mean, std, size=None):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    images = (digits.test.images[:32].float() / 255 - mean) / std
    return images if size is None else torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)


def metadata(folder):
    return ModelCard.load(folder / "README.md").data


@pytest.mark.parametrize("weights", ["last", "best", "ema"])
def test_timm_loads_the_student_and_gives_its_outputs_bit_for_bit(weights, run, written, digits):
    facts, folder = written(run, weights=weights)
    assert facts["timm"]
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    student = timm.create_model("resnet8", num_classes=10).eval()
    names = {"last": "student.safetensors", "best": "student-best.safetensors", "ema": "student-ema.safetensors"}
    student.load_state_dict(load_file(run / names[weights]))
    data = json.loads((run / "result.json").read_text())["data"]
    images = images_of(digits, data["mean"], data["std"])
    with torch.no_grad():
        assert torch.equal(loaded(images), student(images))
        assert student(images).std(0).min() > 1e-4, "images are told apart"
    config = timm.data.resolve_model_data_config(loaded)
    assert config["input_size"] == (3, 32, 32)
    assert (list(config["mean"]), list(config["std"])) == (data["mean"], data["std"])
    assert (config["interpolation"], config["crop_pct"]) == ("bicubic", 1.0)
    assert json.loads((folder / "config.json").read_text())["label_names"] == [str(digit) for digit in range(10)]


def test_a_transformer_with_options_and_an_input_of_its_own_is_built_again(tmp_path, written, digits):
    model = "timm:vit_tiny_patch16_224@patch_size=8@embed_dim=32@depth=1@num_heads=2"
    own = {"size": 48, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    Engine(None, model, (), DATA, out=tmp_path / "run", student_input=own, **FAST).fit()
    _, folder = written(tmp_path / "run")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    options = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    student = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=48, **options).eval()
    student.load_state_dict(load_file(tmp_path / "run" / "student.safetensors"))
    images = images_of(digits, own["mean"], own["std"], (48, 48))
    with torch.no_grad():
        assert torch.equal(loaded(images), student(images))
    config = timm.data.resolve_model_data_config(loaded)
    assert (config["input_size"], list(config["mean"]), list(config["std"])) == ((3, 48, 48), own["mean"], own["std"])
    text = (folder / "README.md").read_text()
    assert "import kdzoo" not in text
    assert "then resized to 48 x 48 pixels" in text
    assert metadata(folder).library_name == "timm"


def test_what_timm_knows_of_other_weights_is_left_out(run, tmp_path):
    student = PastStudent.open(run, images=False)
    others = {"license": "cc-by-nc-4.0", "test_input_size": (3, 48, 48), "hf_hub_id": "timm/other", "tag": "a1_in1k"}
    student.network.pretrained_cfg = {**student.network.pretrained_cfg, **others}
    assert write_in_timm_form(student, tmp_path) is None
    assert set(json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]) & set(others) == set()


def test_a_network_that_timm_builds_otherwise_is_not_passed_off_as_the_student(run, tmp_path):
    student = PastStudent.open(run, images=False)
    student.network.act1 = torch.nn.Tanh()
    assert write_in_timm_form(student, tmp_path) == "the network that timm builds gives other outputs"
    assert not (tmp_path / "config.json").exists()
    student.network.fc = torch.nn.Sequential(torch.nn.Linear(64, 10))
    assert "fc" in write_in_timm_form(student, tmp_path)


def test_kdengine_takes_the_folder_as_it_takes_the_run(run, written, pictures, tmp_path):
    _, folder = written(run)
    assert predict(folder, pictures)["images"] == predict(run, pictures)["images"]
    with pytest.raises(SettingsError, match="published with one set of weights"):
        predict(folder, pictures, weights="best")
    more = Engine(None, "resnet8", (), DATA, student_weights=folder, out=tmp_path / "more", **{**FAST, "lr": 1e-12}).fit()
    kept = load_file(folder / "model.safetensors")
    assert torch.allclose(more.student.state_dict()["fc.weight"], kept["fc.weight"])


@pytest.mark.slow
def test_a_network_that_methods_deploy_is_what_is_pushed(tmp_path, written, pictures):
    run = Engine("timm:resnet14", "resnet8", ["simkd"], DATA, out=tmp_path / "run", **FAST).fit()
    facts, folder = written(run.folder)
    assert (facts["timm"], facts["not_timm"]) == (False, "it is no network of timm")
    assert predict(folder, pictures)["images"] == predict(run.folder, pictures)["images"]
    pushed, deployed = load_file(folder / "model.safetensors"), run.student.state_dict()
    assert pushed.keys() == deployed.keys() != timm.create_model("resnet8").state_dict().keys()
    text = (folder / "README.md").read_text()
    assert "as simkd deploys it" in text
    assert "It needs the plugins of simkd" in text
    assert "hf-hub:" not in text


def test_a_network_for_pixels_has_a_fitting_tag_and_loads_with_kdengine(tmp_path, written, pictures):
    data = "digit-scenes@target=masks@train=16@test=8"
    Engine(None, "seg:resnet8", (), data, out=tmp_path / "run", **FAST).fit()
    facts, folder = written(tmp_path / "run")
    assert not facts["timm"]
    assert metadata(folder).pipeline_tag == "image-segmentation"
    assert predict(folder, pictures)["images"] == predict(tmp_path / "run", pictures)["images"]
    assert {result.metric_type for result in metadata(folder).eval_results} >= {"mean_iou"}


def test_a_network_of_ones_own_code_loads_with_kdengine(tmp_path, written, pictures):
    network = "python:torchvision.models:squeezenet1_1@num_classes=10"
    Engine(None, network, (), DATA, out=tmp_path / "run", **FAST).fit()
    facts, folder = written(tmp_path / "run", trust=True)
    assert not facts["timm"]
    text = (folder / "README.md").read_text()
    assert f"It needs the code of `{network}`." in text
    assert "kdengine predict model photo.jpg --trust" in text
    assert predict(folder, pictures, trust=True)["images"] == predict(tmp_path / "run", pictures, trust=True)["images"]


def test_a_student_that_learned_without_labels_is_an_extractor_of_features(tmp_path, written):
    class Follow(Distiller):
        name = "follow"
        taps = ("embedding",)
        takes = "vectors"

        def forward(self, step):
            (tap,) = step.pairs
            return {"gap": (tap.student - tap.teacher).square().mean()}

    teacher = timm.create_model("resnet14", num_classes=0)
    Engine(teacher, "resnet8", [Follow()], DATA, task="unlabelled", out=tmp_path / "run", **FAST).fit()
    facts, folder = written(tmp_path / "run")
    assert facts["timm"]
    assert metadata(folder).pipeline_tag == "image-feature-extraction"
    assert next(entry.metric_name for entry in metadata(folder).eval_results).startswith("similarity")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert loaded(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    text = (folder / "README.md").read_text()
    assert "so no command repeats it" in text
    assert "unknown: it was passed as a module" in text
    assert "## Classes" not in text
    assert "label_names" not in json.loads((folder / "config.json").read_text())


def test_every_kind_of_outputs_has_a_tag():
    assert {task.outputs for task in BUILT_IN.values() if isinstance(task, type)} <= set(PIPELINES)


def test_code_of_ones_own_is_not_run_without_trust(run, tmp_path, written):
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("run.toml", "result.json", "manifest.json", "metrics.jsonl"):
        (copied / name).write_text((run / name).read_text().replace('"resnet8"', '"python:nowhere:net"'))
    with pytest.raises(SettingsError, match="--trust"):
        written(copied)


def test_the_card_says_what_the_folder_of_the_run_says(run, written):
    _, folder = written(run, license="apache-2.0")
    result, card = json.loads((run / "result.json").read_text()), metadata(folder)
    assert (card.license, card.pipeline_tag, card.library_name) == ("apache-2.0", "image-classification", "kdengine")
    assert {"kdengine", "knowledge-distillation", "rkd", "timm"} <= set(card.tags)
    scores = {entry.metric_name: entry.metric_value for entry in card.eval_results}
    assert scores["top-1 %"] == round(result["student"]["top1"], 4)
    assert card.eval_results[0].dataset_name == DATA
    text = (folder / "README.md").read_text()
    student, teacher = result["student"], result["teacher"]
    for said in (
        f"{student['parameters']:,} parameters, {student['flops'] / 1e6:,.1f} MFLOPs",
        f"`timm:resnet14`, {teacher['parameters']:,} parameters",
        "none: it was trained for this run, from fresh weights",
        "rkd (weight=1.0, distance=25.0, angle=50.0",
        "Seed 0, one run.",
        "kdengine run run.toml",
        f"torch {torch.__version__.partition('+')[0]}",
        "0: 0, 1: 1, 2: 2",
        f"minus mean {result['data']['mean']}",
        'timm.create_model("hf-hub:me/model", pretrained=True)',
        "import kdzoo",
        *result.get("warnings", ()),
    ):
        assert said in text, said
    assert "has not chosen a licence" not in text


def test_the_best_weights_are_told_with_their_own_score(run, written):
    _, folder = written(run, weights="best")
    scores = {entry.metric_name: entry.metric_value for entry in metadata(folder).eval_results}
    result = json.loads((run / "result.json").read_text())["student"]
    assert scores["top-1 %"] == round(result["best_top1"], 4)
    text = (folder / "README.md").read_text()
    assert "chosen by its score on the test images" in text
    assert "has not chosen a licence" in text


def test_a_lane_tells_all_trials_of_its_comparison(tmp_path, written):
    study = tmp_path / "study"
    Comparison("timm:resnet14", "resnet8", ["rkd"], DATA, trials=2, out=study, **FAST).fit()
    _, folder = written(study / "trial-2" / "rkd")
    text = (folder / "README.md").read_text()
    scores = [json.loads((study / f"trial-{n}" / "rkd" / "result.json").read_text())["student"]["top1"] for n in (1, 2)]
    assert f"2 trials of the same comparison: {sum(scores) / 2:.2f} ±" in text
    assert "This model is the one of seed 1." in text
    for seed, score in enumerate(scores):
        assert f"| {seed} | {score:.2f} |" in text
    assert "\nteacher_weights" in (study / "trial-2" / "rkd" / "run.toml").read_text()
    assert "\nteacher_weights" not in (folder / "run.toml").read_text(), "that teacher is trained anew"


def test_it_is_uploaded_in_one_commit(run, api, tmp_path):
    facts = push(run, "me/model", private=True, message="First", out=tmp_path / "kept")
    (_, _), (_, repo, created), (_, files, commit) = api
    assert (repo, created) == ("me/model", {"private": True, "exist_ok": True})
    assert commit == {"repo_id": "someone/model", "commit_message": "First"}
    assert facts["url"] == "https://huggingface.co/someone/model"
    wanted = {"README.md", "config.json", "model.safetensors", "run.toml", "result.json", "metrics.jsonl"}
    assert set(files) == set(facts["files"]) == wanted == {path.name for path in (tmp_path / "kept").iterdir()}
    assert files["README.md"] == (tmp_path / "kept" / "README.md").read_bytes()


def test_what_the_hub_refuses_is_told_and_the_files_are_kept(run, api, tmp_path, monkeypatch):
    def refuse(self, repo_id, **options):
        error = OSError("Forbidden")
        error.response = SimpleNamespace(status_code=403)
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(SettingsError, match=r"does not let you write to 'me/model'.*hf auth login"):
        push(run, "me/model", out=tmp_path / "kept")
    assert (tmp_path / "kept" / "README.md").is_file()
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *given, **named: 1 / 0)
    with pytest.raises(StorageError, match=r"ZeroDivisionError.*Nothing of the run is lost"):
        push(run, "me/model")


def test_what_cannot_be_pushed_is_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(SettingsError, match="not logged in"):
        push(run, "me/model")
    out = tmp_path / "out"
    for message, arguments in {
        "is not the name of a repository": {"repo": "me/mo del"},
        "needs --out FOLDER": {"out": None},
        "holds no|not a run folder": {"run": tmp_path},
        "keeps no moving average|Leave out|was trained without": {"weights": "ema", "run": _without_average(run, tmp_path)},
    }.items():
        with pytest.raises(SettingsError, match=message):
            push(**{"run": run, "repo": "me/model", "dry_run": True, "out": out, **arguments})
        assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(SettingsError, match=r"exists\. Name a new folder"):
        push(run, "me/model", dry_run=True, out=out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    with pytest.raises(SettingsError, match=r"pip install 'kdengine\[hub\]'"):
        push(run, "me/model")


def _without_average(run, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in run.iterdir():
        if path.is_file() and path.name != "student-ema.safetensors":
            (copied / path.name).write_bytes(path.read_bytes())
    return copied


@pytest.mark.parametrize(
    ("teacher", "weights", "licence"),
    [
        ("timm:resnet50.a1_in1k@pretrained=true", None, "apache-2.0 (of the pretrained weights, according to timm)"),
        ("timm:resnet50", None, "none: it was trained for this run"),
        ("timm:resnet50", "~/weights.pth", "unknown: its weights come from a file"),
        ("hf-hub:timm/resnet50.a1_in1k", None, "that of [timm/resnet50.a1_in1k](https://huggingface.co/timm/resnet50"),
        ("torchvision:resnet50@weights=IMAGENET1K_V1", None, "unknown: its library does not say"),
        ("module:MyNet", None, "unknown: it was passed as a module"),
    ],
)
def test_the_licence_of_a_teacher_is_told_where_it_is_known(teacher, weights, licence):
    settings = Settings(student="resnet8", teacher=teacher, teacher_weights=weights)
    (origin,) = origins_of_teachers(settings, {"teacher": {"name": teacher}})
    assert origin.licence.startswith(licence)
    alone = Settings(student=teacher, student_weights=weights)
    assert origin_of_student(alone).licence.startswith(licence)


def test_paths_do_not_tell_whose_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    assert without_home('data = "imagefolder:/home/someone/flowers"') == 'data = "imagefolder:~/flowers"'
    assert without_home("/home/someone-else/x") == "/home/someone-else/x"
