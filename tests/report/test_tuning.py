from kdengine.report.tuning import tuning_table
from kdengine.storage.scores import CLASSIFICATION


def probe(lr, chosen=False, lane="plain", **scores):
    return {"lane": lane, "lr": lr, "chosen": chosen, **scores}


def test_the_table_of_probes_marks_the_choice_and_says_if_it_is_the_outermost():
    probes = [
        *(probe(0.01, val_top1=80.0), probe(0.1, True, val_top1=90.0), probe(1.0)),
        *(probe(0.01, True, "st", val_top1=70.0), probe(0.1, lane="st", val_top1=60.0)),
    ]
    table = tuning_table({"lr": {}, "epochs": 2, "validation": 0.1, "probes": probes}, CLASSIFICATION)
    assert table.columns == ("probed", "train.lr", "held-out top-1 %", "note")
    assert table.rows == (
        ("plain", "0.01", "80.00", ""),
        ("plain", "0.1", "90.00", "chosen"),
        ("plain", "1", "failed", ""),
        ("st", "0.01", "70.00", "chosen; the lowest that was probed"),
        ("st", "0.1", "60.00", ""),
    )
    assert table.caption == "Learning rates: 2 epochs each, top-1 on 10 % of the training images, held out for that."
