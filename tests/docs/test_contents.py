from kdengine_docs.contents import named_in, with_every_page

HOME = "# Home\n\n```{toctree}\n:hidden:\n:caption: Start\n\nfirst\nSecond one <second>\n```\n"


def test_pages_that_no_table_of_contents_names_get_one():
    assert named_in(HOME) == {"first", "second"}
    assert with_every_page(HOME, ["index", "first", "second", "results/methods"]) == HOME
    assert named_in(with_every_page(HOME, ["index", "first", "second", "new"])) == {"first", "second", "new"}


def test_the_home_page_names_only_what_exists_or_is_made(root):
    text = (root / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [name for name in named_in(text) if not (root / "docs" / f"{name}.md").is_file()]
    assert set(missing) <= {"plugins/index"}
