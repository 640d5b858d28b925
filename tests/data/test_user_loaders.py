import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdengine.data.user_loaders import UserBatches
from kdengine.errors import DataError


def foreign(*batches):
    return list(UserBatches(batches).epoch(0))


X, Y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "form",
    [
        (X, Y),
        [X, Y],
        (X, Y, None),
        {"image": X, "label": Y},
        {"pixel_values": X, "labels": Y},
        {"img": X, "y": Y, "name": "a"},
        (X, Y.to(torch.int32)),
        (X.double(), Y),
    ],
)
def test_a_loader_may_give_pairs_or_mappings(form):
    (batch,) = foreign(form)
    assert torch.equal(batch.x, X)
    assert batch.x.dtype == torch.float32, "networks have float32 weights"
    assert torch.equal(batch.y, Y)
    assert batch.y.dtype == torch.int64


def test_without_positions_there_is_no_index():
    loader = DataLoader(TensorDataset(torch.rand(10, 3, 4, 4), torch.arange(10)), batch_size=4)
    batches = UserBatches(loader)
    assert [batch.index for batch in batches.epoch(0)] == [None] * 3
    assert len(batches) == 3


PLACES = torch.tensor([5, 0, 9, 2])


@pytest.mark.parametrize(
    "form",
    [
        (X, Y, PLACES),
        [X, Y, PLACES, "more"],
        (X, Y, PLACES.int()),
        (X, Y, PLACES.to(torch.uint8)),
        {"image": X, "label": Y, "index": PLACES},
        {"pixel_values": X, "labels": Y, "idx": PLACES},
    ],
)
def test_a_third_element_is_the_position_of_each_image(form):
    (batch,) = foreign(form)
    assert torch.equal(batch.index, PLACES)
    assert batch.index.dtype == torch.int64


def test_positions_of_a_shuffled_loader_are_those_of_the_same_images_in_every_epoch():
    images = torch.rand(10, 3, 4, 4)
    shuffled = DataLoader(TensorDataset(images, torch.arange(10), torch.arange(10)), 4, shuffle=True)
    batches = UserBatches(shuffled)
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            assert torch.equal(batch.x, images[batch.index])


@pytest.mark.parametrize(
    ("third", "said"),
    [
        (["a", "b", "c", "d"], "(str, str, str, str)"),
        (PLACES.float(), "float32 [4]"),
        (PLACES > 2, "bool [4]"),
        (PLACES[:3], "int64 [3]"),
        (PLACES[:, None], "int64 [4, 1]"),
        (7, "int"),
    ],
)
def test_a_third_element_that_is_no_position_is_answered_with_what_it_is(third, said):
    for form in ((X, Y, third), {"image": X, "label": Y, "index": third}):
        with pytest.raises(DataError) as caught:
            foreign(form)
        assert str(caught.value).startswith(
            "The third element of a batch, or 'index' in a mapping, is the position of each image"
        )
        assert f"here int [4]; got {said}. Leave anything else out of the batch" in str(caught.value)


@pytest.mark.parametrize(("index", "samples"), [(PLACES, 9), (PLACES - 1, None), (PLACES - 1, 10)])
def test_a_position_outside_the_data_set_is_refused(index, samples):
    got = 9 if samples == 9 else -1
    with pytest.raises(DataError, match=f"train_loader gives the index {got}, but positions count from 0"):
        list(UserBatches([(X, Y, index)], name="train_loader", samples=samples).epoch(0))
    assert len(list(UserBatches([(X, Y, PLACES)], samples=10).epoch(0))) == 1


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (X, "got float32 [4, 3, 8, 8]"),
        ((X,), "got (float32 [4, 3, 8, 8])"),
        ((X, [0, 1, 2, 1]), "got (float32 [4, 3, 8, 8], (int, int, int, int))"),
        ({"image": X, "target": Y}, "got a mapping with 'image', 'target'"),
        ((X, Y[:3]), "got (float32 [4, 3, 8, 8], int64 [3])"),
        ((X, Y.float()), "got (float32 [4, 3, 8, 8], float32 [4])"),
        ((X, Y[:, None]), "got (float32 [4, 3, 8, 8], int64 [4, 1])"),
        (((X * 255).to(torch.uint8), Y), "got (uint8 [4, 3, 8, 8], int64 [4])"),
        ("images", "got str"),
    ],
)
def test_another_form_is_answered_with_what_came_and_what_is_needed(form, said):
    with pytest.raises(DataError) as caught:
        foreign(form)
    assert str(caught.value).startswith("A loader must give normalised images (float, [B, C, H, W]) and class indices")
    assert said in str(caught.value)


def test_a_loader_without_a_length_is_refused():
    with pytest.raises(DataError, match="The loader has no length"):
        len(UserBatches(iter([(X, Y)])))


def test_a_loader_of_the_users_own_is_read_from_its_beginning():
    loader = DataLoader(TensorDataset(torch.rand(10, 3, 4, 4), torch.arange(10), torch.arange(10)), batch_size=4)
    batches = UserBatches(loader)
    _, second, third = batches.epoch(0)
    for rest, whole in zip(batches.epoch(0, 1), (second, third), strict=True):
        assert torch.equal(rest.x, whole.x)
        assert torch.equal(rest.index, whole.index)
    assert [batch.index.tolist() for batch in batches.epoch(0, 2)] == [[8, 9]]
    assert list(batches.epoch(0, 3)) == []


@pytest.mark.parametrize("classes", [3, 4, None])
def test_labels_inside_the_classes_pass(classes):
    (batch,) = UserBatches([(X, Y)], classes=classes).epoch(0)
    assert torch.equal(batch.y, Y)


def test_a_label_outside_the_classes_is_answered_with_the_range_and_what_to_do():
    with pytest.raises(DataError) as caught:
        list(UserBatches([(X, Y), (X, Y + 1)], name="train_loader", classes=3).epoch(0))
    assert str(caught.value) == (
        "train_loader gives the label 3, but there are 3 classes, which count from 0 to 2. Their number is taken from the "
        "labels of val_loader, 'train_loader.dataset.classes' and the networks given as modules: give a val_loader with all "
        "classes, or a data set with a list 'classes'."
    )


@pytest.mark.parametrize("classes", [3, None])
def test_a_negative_label_is_refused_whether_or_not_the_classes_are_known(classes):
    with pytest.raises(DataError, match="val_loader gives the label -100, but classes count from 0"):
        list(UserBatches([(X, Y.clone().fill_(-100))], name="val_loader", classes=classes).epoch(0))


def test_a_batch_without_images_is_told():
    empty = (torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError, match="an empty batch"):
        list(UserBatches([empty], classes=3).epoch(0))


def test_a_loader_that_is_used_up_and_one_of_another_length_are_told(caplog):
    full = (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))

    class Said(list):
        def __len__(self):
            return 3

    with pytest.raises(DataError, match=r"gave no batch. Is it used up"):
        list(UserBatches([]).epoch(0))
    with caplog.at_level("WARNING", "kdengine"):
        assert len(list(UserBatches(Said([full])).epoch(0))) == 1
    assert "gave 1 batches, but its length is 3" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_counted_in_the_first_batch(value):
    bad = X.clone()
    bad[1, 2, 3, 4] = bad[3] = value
    with pytest.raises(DataError, match=r"train_loader gives images with values that are not finite .* 2 of 4 in one batch"):
        list(UserBatches([(bad, Y)], name="train_loader").epoch(0))
