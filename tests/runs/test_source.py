import pytest

from kdengine import DataError, Engine

LABELS, MARKS = "digits@train=16@test=16", "digit-scenes@train=8@test=8"


@pytest.mark.parametrize(
    ("task", "data", "network", "said"),
    [
        ("multilabel", LABELS, "cnn2", r"\[16\], but multi-label data needs \[N, 10\]"),
        ("segmentation", LABELS, "seg:resnet18", r"int64 \[16\], but masks uint8"),
        ("classification", MARKS, "cnn2", r"float32 \[8, 10\], but class indices"),
        ("classification", f"{MARKS}@target=masks", "cnn2", r"uint8 \[8, 64, 64\], but class indices"),
    ],
)
def test_data_for_another_task_than_the_settings_name_are_refused(task, data, network, said):
    with pytest.raises(DataError, match=f"trained as '{task}', has targets .*{said}"):
        Engine(None, network, data=data, task=task, device="cpu").plan()
