"""Whatever is written for a network or for data names it, or is refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdengine import DataError, ModelError, Registry
from kdengine.config.specs import Spec
from kdengine.data.load import load_data
from kdengine.networks.models import check_name

WORDS = "timm torchvision python module digits imagefolder resnet8 resnet50.a1_in1k nowhere.x json train ~nobody"
MARKS = ": @ = . , ~ / [ ] { } =true =1 ={a=1} =[[1]] @a.b=1 @a= @name=x"
PIECES = st.sampled_from([*WORDS.split(), *MARKS.split(), " ", "\0", "9" * 5000])
SPECS = st.lists(PIECES, max_size=6).map("".join) | st.text(max_size=12)


@pytest.fixture(scope="module")
def registry():
    return Registry()


@given(text=SPECS)
def test_any_text_is_a_spec_or_is_refused(answered, text):
    spec = answered(Spec.parse, text, ModelError)
    assert isinstance(spec, Spec | ModelError)
    if isinstance(spec, Spec):
        assert spec.name
        assert text.strip().startswith(f"{spec.scheme}:{spec.name}" if spec.scheme else spec.name)


@given(text=SPECS)
def test_any_text_names_a_network_or_is_refused(answered, registry, text):
    found = answered(check_name, text, registry)
    assert found is None or isinstance(found, ModelError)


@given(text=SPECS.filter(lambda text: not text.strip().startswith(("digits", "hf:", "cifar"))))
def test_any_text_names_data_or_is_refused(answered, registry, text):
    assert isinstance(answered(load_data, text, registry), DataError)
