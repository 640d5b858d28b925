import json
import shutil

import pytest


def test_a_dry_run_writes_the_folder_and_says_what_is_in_it(finished, kdengine, here):
    said = kdengine("push", finished[1], "me/digits", "--dry-run", "--out", "published", "--license", "mit")
    assert said.code == 0, said.err
    assert "Wrote published; nothing was uploaded" in said.out
    assert 'timm.create_model("hf-hub:me/digits", pretrained=True)' in said.out
    assert "license: mit" in (here / "published" / "README.md").read_text()
    said = kdengine("predict", "published", "nothing.png", "--json")
    assert said.json["student"] == "resnet8"
    facts = kdengine("push", finished[1], "me/digits", "--dry-run", "--out", "again", "--weights", "best", "--json").json
    assert facts["url"] is None
    assert sorted(path.name for path in (here / "again").iterdir()) == facts["files"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "me/digits", "--dry-run"], "needs --out FOLDER"),
        (["RUN", "me/digits", "--dry-run", "--out", "taken"], "Name a new folder"),
        (["RUN", "not/a/name", "--dry-run", "--out", "new"], "is not the name of a repository"),
        (["unfinished", "me/digits", "--dry-run", "--out", "new"], "is not finished"),
        (["RUN", "me/digits"], "not logged in"),
    ],
)
def test_what_cannot_be_pushed_is_refused(arguments, message, finished, kdengine, here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (here / "taken").mkdir()
    (here / "taken" / "file").write_text("mine")
    shutil.copytree(finished[1], here / "unfinished", ignore=shutil.ignore_patterns("result.json"))
    said = kdengine("push", *(finished[1] if text == "RUN" else text for text in arguments), "--json")
    assert said.code == 2
    assert message in json.loads(said.out)["error"]
    assert "Traceback" not in said.err
    assert not (here / "new").exists()
