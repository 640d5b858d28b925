import pytest
from kdengine_docs.readme import Readme, readme_of

HEAD = "Metadata-Version: 2.1\nName: kd-theirs\nVersion: 1.2\n"


def install(point, metadata):
    (point / "kd_theirs-1.2.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")


@pytest.fixture
def theirs(distribution):
    return distribution("kd-theirs", "")


def test_the_readme_of_a_source_tree_is_read_without_its_title():
    readme = readme_of("kdplugin-rkd", "kdplugin_rkd")
    assert readme.title == "kdplugin-rkd: relational knowledge distillation"
    assert readme.text.startswith("The student does not imitate")
    assert readme.folder.name == "kdplugin-rkd"


def test_the_long_description_of_an_installed_distribution_is_its_readme(theirs):
    install(theirs, f"{HEAD}Description-Content-Type: text/markdown; charset=UTF-8\n\n# kd-theirs: Th\u00e9irs\n\nText.\n")
    assert readme_of("kd-theirs", "kd_theirs") == Readme("Text.\n", "kd-theirs: Th\u00e9irs")


@pytest.mark.parametrize("text", ["", "Description-Content-Type: text/x-rst\n\nTitle\n=====\n"], ids=["none", "rst"])
def test_without_a_readme_in_markdown_there_is_none(theirs, text):
    install(theirs, HEAD + text)
    assert readme_of("kd-theirs", "kd_theirs") is None


def test_a_project_of_another_name_above_the_module_is_not_asked(theirs):
    (theirs / "pyproject.toml").write_text('[project]\nname = "another"\n')
    (theirs / "README.md").write_text("# Another\n")
    install(theirs, HEAD)
    assert readme_of("kd-theirs", "kd_theirs") is None
    (theirs / "pyproject.toml").write_text('[project]\nname = "KD_theirs"\n')
    assert readme_of("kd-theirs", "kd_theirs").title == "Another"


def test_a_distribution_that_is_not_there_has_none():
    assert readme_of("kd-nowhere", "kd_nowhere.module") is None
