"""The whole site is built as ``make docs`` builds it."""

import re
import subprocess
import sys
import urllib.parse

import pytest

import kdengine
from kdengine.cli.main import COMMANDS
from kdengine.config.catalogue import every_setting
from kdengine.plugins import hookspecs

REFERENCE = ("api", "commands", "hooks", "settings", "testing")

pytest.importorskip("furo", reason="the extra 'docs' is not installed")
pytest.importorskip("jupytext", reason="the extra 'docs' is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q", root / "docs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_it_builds_without_a_warning_and_with_a_page_for_every_plugin(site, said):
    for plugin in said.plugins:
        for name in (*plugin["methods"], *plugin["compositions"]) or (plugin["name"],):
            assert (site / "plugins" / f"{name}.html").is_file()


@pytest.mark.slow
def test_the_references_hold_every_public_name_hook_command_and_setting(site):
    texts = {page: (site / "reference" / f"{page}.html").read_text(encoding="utf-8") for page in REFERENCE}
    hooks = [name for name in vars(hookspecs) if name.startswith("kdengine_")]
    assert len(hooks) > 5
    assert [name for name in hooks if f'id="kdengine.plugins.hookspecs.{name}"' not in texts["hooks"]] == []
    assert [name for name in kdengine.__all__ if f'id="kdengine.{name}"' not in texts["api"]] == []
    assert [name for name in COMMANDS if f'id="kdengine-{name}"' not in texts["commands"]] == []
    assert [entry.name for entry in every_setting() if entry.name not in texts["settings"]] == []


@pytest.mark.slow
def test_every_link_within_the_site_leads_to_a_page_and_a_place_on_it(site):
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    dead = []
    for page, text in pages.items():
        for target in re.findall(r'<a [^>]*?href="([^"]+)"', text):
            path, _, anchor = urllib.parse.unquote(target).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            place = (page.parent / path).resolve() if path else page
            if not place.exists() or (anchor and place in pages and f'id="{anchor}"' not in pages[place]):
                dead.append(f"{page.relative_to(site)}: {target}")
    assert len(pages) > 80
    assert dead == []


@pytest.mark.slow
def test_every_page_fits_a_narrow_screen(site):
    """It scales with the screen, and whatever may be wide scrolls by itself."""
    style = (site / "_static" / "site.css").read_text(encoding="utf-8")
    assert re.search(r"\.table-wrapper,[^}]*overflow-x: auto", style)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if "<article" in text and page.stem not in ("genindex", "py-modindex"):  # whose tables are two narrow columns
            assert '<meta name="viewport" content="width=device-width' in text
            assert "site.css" in text
            assert len(re.findall(r"<table", text)) <= text.count('class="table-wrapper')
