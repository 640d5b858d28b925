import json

SMALL = ["--data", "digits@train=128@test=64", "--epochs", "1", "-o", "train.batch_size=64", "-o", "train.precision=fp32"]
PAIR = ["--teacher", "resnet14", "--student", "resnet8"]


def test_methods_are_compared_and_printed_with_the_plain_student_and_the_teacher(kdengine, here):
    said = kdengine("compare", "--methods", "st,fitnet+st", *PAIR, *SMALL, "--out", "out")
    assert said.code == 0, said.err
    lines = [line.split() for line in said.out.splitlines()]
    assert {"plain", "st", "fitnet+st", "teacher"} <= {line[0] for line in lines if line}
    assert "one trial: no interval" in said.out
    assert "trial-1 fitnet+st: epoch 2/2" in said.err
    assert "resnet14: training" in said.err
    assert (here / "out" / "trial-1" / "plain" / "student.safetensors").is_file()
    assert (here / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert all(piece in page for piece in ("fitnet+st", "gain over plain", "<svg"))


def test_with_json_there_is_one_object(kdengine):
    found = kdengine("compare", "--methods", "st", "--trials", "2", *PAIR, *SMALL, "--out", "out", "--json").json
    assert {row["method"]: row["trials"] for row in found["methods"]} == {"plain": 2, "st": 2}
    assert found["teacher"]["name"] == "resnet14"
    json.dumps(found)


def test_what_is_missing_or_unknown_is_told(kdengine):
    for arguments, said in (
        (PAIR, "--methods"),
        (["--methods", "rdk", *PAIR], "rkd"),
        (["--methods", "st", "--student", "resnet8"], "--teacher"),
        (["--resume", "nowhere"], "no comparison"),
        (["--resume", "nowhere", "--methods", "st"], "leave the other options out"),
    ):
        found = kdengine("compare", *arguments)
        assert found.code == 2
        assert said in found.err
