"""The pages of reference hold everything that is public."""

import re

from kdengine_docs.commands import commands_page
from kdengine_docs.settings import settings_tables

import kdengine
import kdengine.testing
from kdengine.cli.main import COMMANDS


def documented(root, page):
    text = (root / "docs" / "reference" / page).read_text(encoding="utf-8")
    return re.findall(r"auto\w+:: kdengine\.(?:testing\.)?(\w+)", text), text


def test_the_page_of_the_library_has_every_public_name_once(root):
    names, _ = documented(root, "api.md")
    assert sorted(names) == sorted(kdengine.__all__)


def test_the_page_of_the_test_tools_has_every_public_name_once(root):
    names, _ = documented(root, "testing.md")
    assert sorted(names) == sorted(kdengine.testing.__all__)


def test_every_command_and_setting_stands_on_a_page():
    page = commands_page()
    assert [name for name in COMMANDS if f"## kdengine {name}\n" not in page] == []
    assert "--teacher-epochs" in page
    assert "\b" not in page
    assert "| `train.lr` |" in settings_tables()
