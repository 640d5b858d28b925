import re

import pytest
from kdengine_docs.links import Links
from kdengine_docs.plugins import Installed

METHOD = '''
from kdengine import Distiller, hookimpl


class Theirs(Distiller):
    """Match what they match.

    Source: They, "Theirs", CVPR 2030, arXiv:3001.00001.
    """

    name = "theirs"
    category = "relational"
    groups = ("modern",)
    taps = ("stage-1",)

    class Options(Distiller.Options):
        power: float = 2.0
        """Exponent | of the difference."""

    def forward(self, step):
        return {"theirs": step.student.logits.mean()}


@hookimpl
def kdengine_register(registry):
    registry.distiller(Theirs)
'''
OBSERVER = "from kdengine import hookimpl\n\n\n@hookimpl\ndef kdengine_after_fit(run):\n    pass\n"
README = "# kd-theirs: what they do\n\nSee the [license](LICENSE) and [home](https://example.org).\n"
METADATA = "\nDescription-Content-Type: text/markdown\nProject-URL: Homepage, https://example.org\n\n" + README


@pytest.fixture
def pages(distribution, tmp_path, root, monkeypatch):
    """The pages of an environment with one method of somebody else, one observer, and one that is broken."""
    monkeypatch.setenv("KDENGINE_LOAD_PLUGINS", "kd-theirs,kd-hears,kd-broken,kdplugin-mbd,kdzoo")
    point = distribution("kd-theirs", METHOD, entry="theirs")
    distribution("kd-hears", OBSERVER, entry="hears")
    distribution("kd-broken", "raise RuntimeError('no | such luck')", entry="broken")
    file = point / "kd_theirs-1.2.dist-info" / "METADATA"
    file.write_text(file.read_text().rstrip() + METADATA)
    installed, folder = Installed.read(), tmp_path / "plugins"
    folder.mkdir()
    (folder / "gone.md").write_text("# of a plugin that is gone\n")
    installed.write(folder, Links(root, installed.pages))
    return {"methods": installed.catalogue(), **{file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}}


def test_a_method_of_somebody_else_has_a_page_of_its_metadata_and_its_readme(pages):
    page = pages["theirs"]
    assert page.startswith("# `theirs`: what they do\n\nMatch what they match.\n")
    assert '| source | They, "Theirs", CVPR 2030, arXiv:3001.00001. |' in page
    assert "| taps | `stage-1` |" in page
    assert "| package | [kd-theirs](https://example.org) 1.2 |" in page
    assert "| `power` | `2.0` | Exponent \\| of the difference. |" in page
    assert "See the license and [home](https://example.org)." in page


def test_it_stands_in_the_catalogue_with_a_link_and_in_the_contents(pages):
    assert "| [`theirs`](plugins/theirs.md) | 2030 | Match what they match. |" in pages["methods"]
    assert "\nplugins/theirs\n" in pages["methods"]
    assert "first-party" not in pages["methods"]


def test_every_method_of_a_package_has_a_page_with_its_own_facts_and_the_readme(pages):
    for name in ("mbd-delta", "mbd-hard", "mbd-soft"):
        assert pages[name].startswith(f"# `{name}`: ")
        assert pages[name].count("\n## Options\n") == 1  # those of the README
        assert "](../" in pages[name] or "](http" in pages[name] or "](" not in pages[name]


def test_plugins_without_a_method_have_pages_too_and_broken_ones_their_reason(pages):
    assert "`cnn2`" in pages["kdzoo"]
    assert "| offers | hooks into runs |" in pages["hears"]
    assert "broken" not in pages
    (row,) = re.findall(r"^\| `broken` \(broken\) .*$", pages["index"], flags=re.MULTILINE)
    assert r"no \| such luck" in row
    assert {"hears", "kdzoo"} < set(re.search(r"{toctree}(.*?)```", pages["index"], flags=re.DOTALL)[1].split())


def test_the_page_of_a_plugin_that_is_gone_is_removed(pages):
    assert "gone" not in pages


def test_every_installed_method_here_has_a_page(said, tmp_path, root):
    said.write(tmp_path / "plugins", Links(root, said.pages))
    made = {file.stem for file in (tmp_path / "plugins").glob("*.md")}
    assert {method["name"] for method in said.methods} <= made
    assert {plugin["name"] for plugin in said.plugins if plugin["status"] == "loaded"} <= made
    assert len(made) > 40
