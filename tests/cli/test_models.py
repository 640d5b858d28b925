def specs(said):
    return {model["spec"]: model for model in said.json["models"]}


def test_the_networks_of_the_zoo_are_listed_with_their_sizes(kdengine):
    found = specs(kdengine("models", "--json"))
    assert found["resnet8"] == {"spec": "resnet8", "parameters": 83_892, "input_size": [3, 32, 32]}
    assert not any(":" in spec for spec in found)
    assert "83,892" in kdengine("models").out


def test_a_pattern_searches_timm_and_torchvision_too(kdengine):
    found = specs(kdengine("models", "resnet18", "--json"))
    assert {"timm:resnet18", "torchvision:resnet18"} <= found.keys()
    assert all("resnet18" in spec for spec in found)
    assert found["timm:resnet18"]["parameters"] is None
    globbed = specs(kdengine("models", "resnet?", "--json"))
    assert globbed.keys() == {"resnet8"}


def test_sizes_are_counted_where_that_is_asked_for(kdengine):
    found = specs(kdengine("models", "torchvision:resnet18", "--sizes", "--json"))
    assert found["torchvision:resnet18"]["parameters"] == 11_227_812


def test_a_pattern_that_matches_nothing_is_told(kdengine):
    said = kdengine("models", "nowhere")
    assert (said.code, said.out) == (0, "")
    assert "No network matches 'nowhere'" in said.err
    assert kdengine("models", "nowhere", "--json").json == {"models": []}
