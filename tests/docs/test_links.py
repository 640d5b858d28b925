from kdengine_docs.links import GITHUB, Links, outside_code, without_relative_links


def made(root, text, page, source=None):
    return Links(root, {"kdplugin-rkd": "plugins/rkd.md", "kdzoo": "plugins/kdzoo.md"}).within_site(text, page, source)


def test_links_to_files_of_the_repository_become_pages_of_the_site(root):
    absolute = f"[a]({GITHUB}/blob/main/docs/comparing.md#groups)"
    text = f"{absolute} [b](../plugins/kdplugin-rkd/README.md) [c](data.md) [d](../zoo/README.md)"
    assert made(root, text, "faq") == "[a](comparing.md#groups) [b](plugins/rkd.md) [c](data.md) [d](plugins/kdzoo.md)"
    assert made(root, "[a](../data.md) [b](../../CHANGELOG.md)", "results/methods") == "[a](../data.md) [b](../changelog.md)"


def test_links_to_files_without_a_page_lead_to_github(root):
    assert (
        made(root, "[a](../LICENSE) [b](../tests)", "faq") == f"[a]({GITHUB}/blob/main/LICENSE) [b]({GITHUB}/tree/main/tests)"
    )


def test_the_links_of_a_file_that_stands_elsewhere_start_from_there(root):
    text = "[a](docs/data.md) [b](../../docs/taps.md)"
    assert made(root, "[a](docs/data.md)", "changelog", "CHANGELOG.md") == "[a](data.md)"
    assert made(root, text, "plugins/rkd", "plugins/kdplugin-rkd/README.md").endswith("[b](../taps.md)")


def test_other_links_pictures_and_code_stay_as_they_are(root):
    text = "[a](https://example.org/x) [b](#groups) ![c](methods.png)\n\n```md\n[d](../LICENSE)\n```\n"
    assert made(root, text, "faq") == text


def test_only_prose_is_changed():
    assert outside_code("a\n```\na\n```\na", lambda text: text.replace("a", "b")) == "b\n```\na\n```\nb"


def test_relative_links_of_a_readme_from_elsewhere_become_text():
    text = "[license](LICENSE) [home](https://example.org) [below](#use) ![logo](logo.png)"
    assert without_relative_links(text) == "license [home](https://example.org) [below](#use) logo"
