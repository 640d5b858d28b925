import io
import json
import shutil
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from kdengine.shipping import formats


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to write into."""
    return shutil.copytree(finished[1], tmp_path / "run")


def agrees(function, network, weights, digits, mean, std, size=None):
    """Whether a function of plain images answers as a network does whose images are prepared by hand."""
    network.load_state_dict(load_file(weights))
    plain = digits.test.images[:64].float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    prepared = (plain - mean) / std
    if size is not None:
        prepared = F.interpolate(prepared, size=size, mode="bicubic", antialias=True)
    with torch.no_grad():
        expected, found = network.eval()(prepared), function(plain)
    assert expected.std(0).min() > 1e-3, "images are told apart"
    return (found - expected).abs().max() < 1e-4


def result(run):
    return json.loads((run / "result.json").read_text())


def of_data(run):
    """Mean and deviation of the data of a run."""
    return result(run)["data"]["mean"], result(run)["data"]["std"]


def resnet8():
    return timm.create_model("resnet8", num_classes=10)


def test_a_torch_export_takes_plain_images_and_answers_as_the_student(run, kdengine, digits):
    said = kdengine("export", run, "--to", "torch-export")
    assert said.code == 0, said.err
    assert "checked  on 8 test images" in said.out
    extra = {"kdengine.json": ""}
    program = torch.export.load(io.BytesIO((run / "export.pt2").read_bytes()), extra_files=extra)
    assert agrees(program.module(), resnet8(), run / "student.safetensors", digits, *of_data(run))
    notes = json.loads(extra["kdengine.json"])
    assert json.loads(notes["classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(notes["input_size"]) == [3, 32, 32]
    assert json.loads(notes["mean"]) == of_data(run)[0]


def test_safetensors_hold_the_weights_and_say_how_to_prepare_images(run, kdengine):
    facts = kdengine("export", run, "--to", "safetensors", "--out", "mine.safetensors", "--weights", "best", "--json").json
    assert facts["difference"] < 1e-4
    kept, best = load_file("mine.safetensors"), load_file(run / "student-best.safetensors")
    assert kept.keys() == best.keys()
    assert all(torch.equal(kept[name], best[name]) for name in best)
    with safe_open("mine.safetensors", "pt") as file:
        notes = file.metadata()
    assert (json.loads(notes["mean"]), json.loads(notes["std"])) == of_data(run)
    assert (notes["weights"], notes["network"], json.loads(notes["methods"])) == ("best", "resnet8", ["rkd"])


def test_a_file_that_gives_something_else_is_refused_and_an_earlier_one_is_kept(run, kdengine, monkeypatch):
    file = run / "export.safetensors"
    assert kdengine("export", run, "--to", "safetensors").code == 0
    before, right = file.read_bytes(), formats.Safetensors.read
    monkeypatch.setattr(formats.Safetensors, "read", lambda self, path: lambda images: right(self, path)(images) + 2e-3)
    said = kdengine("export", run, "--to", "safetensors")
    assert said.code == 2
    assert "outputs differ by up to 0.002" in said.err
    assert file.read_bytes() == before
    file.unlink()
    assert kdengine("export", run, "--to", "safetensors").code == 2
    assert [path.name for path in run.iterdir() if "export" in path.name] == []


def test_without_its_packages_onnx_says_what_to_install(run, kdengine, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    said = kdengine("export", run, "--to", "onnx")
    assert said.code == 2
    assert "needs onnxruntime: pip install 'kdengine[onnx]'" in said.err


def test_classes_in_another_order_are_refused_by_name(run, kdengine):
    changed = result(run)
    changed["data"]["classes"].reverse()
    (run / "result.json").write_text(json.dumps(changed))
    said = kdengine("export", run, "--to", "safetensors")
    assert said.code == 2
    assert "class 0 is '0', not '9'" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "missing/file"], "not a file in a folder that exists"),
        (["--out", "RUN/student-best.safetensors"], "a file of the run itself"),
        (["--batch", "0"], "'0' is neither a number of images"),
        (["--batch", "2"], "Leave out --raw and --batch"),
        (["--data", "python:nowhere:data"], "cannot be imported"),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments, message, run, kdengine):
    said = kdengine("export", run, "--to", "safetensors", *(text.replace("RUN", str(run)) for text in arguments))
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_folder_without_a_run_is_told_as_such(kdengine, here):
    assert "'nowhere' is not a run folder" in kdengine("export", "nowhere", "--to", "safetensors").err


def test_code_that_the_folder_names_is_not_run_without_trust(run, kdengine):
    text = (run / "run.toml").read_text().replace('student = "resnet8"', 'student = "python:nowhere:net"')
    (run / "run.toml").write_text(text)
    said = kdengine("export", run, "--to", "safetensors")
    assert said.code == 2
    assert "add --trust" in said.err


@pytest.fixture
def onnx():
    """Loads a file in ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def load(path):
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(images):
            return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

        (taken,) = session.get_inputs()
        return SimpleNamespace(run=run, notes=session.get_modelmeta().custom_metadata_map, shape=taken.shape)

    return load


@pytest.mark.slow
def test_onnx_takes_batches_of_any_size_and_answers_as_the_student(run, kdengine, digits, onnx):
    said = kdengine("export", run, "--to", "onnx", "--json")
    assert said.code == 0, said.err
    file = onnx(run / "export.onnx")
    assert agrees(file.run, resnet8(), run / "student.safetensors", digits, *of_data(run))
    assert file.shape == ["batch", 3, 32, 32]
    assert json.loads(file.notes["classes"]) == [str(digit) for digit in range(10)]
    said = kdengine("export", run, "--to", "onnx", "--batch", 3, "--out", run / "three.onnx", "--json")
    assert (said.json["images"], onnx(run / "three.onnx").shape) == (9, [3, 3, 32, 32])


TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
OWN = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
def test_a_transformer_with_an_input_of_its_own_has_resize_and_normalisation_inside(form, kdengine, small, digits, onnx, here):
    model = "@".join(["timm:vit_tiny_patch16_224", *(f"{name}={value}" for name, value in TINY.items())])
    own = [f"student_input.{name}={value}" for name, value in {"size": 48, **OWN}.items()]
    options = [part for text in own for part in ("-o", text)]
    assert kdengine("train", "--model", model, *small, *options, "--out", "run").code == 0
    said = kdengine("export", "run", "--to", form, "--json")
    assert said.code == 0, said.err
    assert {name: said.json["notes"][name] for name in OWN} == OWN
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=48, **TINY)
    if form == "onnx":
        function = onnx("run/export.onnx").run
        assert onnx("run/export.onnx").shape == ["batch", 3, 32, 32]
    else:
        function = torch.export.load(io.BytesIO((here / "run/export.pt2").read_bytes())).module()
    assert agrees(function, network, "run/student.safetensors", digits, **OWN, size=(48, 48))


@pytest.mark.slow
def test_a_raw_file_takes_what_the_network_receives(kdengine, small, onnx, here):
    options = ["-o", "student_input.size=24"]
    assert kdengine("train", "--model", "resnet8", *small, *options, "--out", "run").code == 0
    assert kdengine("export", "run", "--to", "onnx", "--raw").code == 0
    assert onnx("run/export.onnx").shape == ["batch", 3, 24, 24]
