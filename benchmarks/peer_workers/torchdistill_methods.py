"""The methods of torchdistill as configurations of its distillation box, as its documentation of each loss writes them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from protocol import SAMPLES

__all__ = ["METHODS", "NEGATIVES", "TASK"]

STAGES = {"layer1": 16, "layer2": 32, "layer3": 64}
LAST = {"student": {"layer1": "layer1.0", "layer2": "layer2.0", "layer3": "layer3.0"}}
LAST["teacher"] = {stage: f"{stage}.4" for stage in STAGES}
"""The last block of each stage: the student has one a stage, the teacher five."""
NEGATIVES, WIDTH = 16_384, 128
LOGITS = {f"{role}_module_{key}": value for role in ("student", "teacher") for key, value in (("path", "."), ("io", "output"))}
WRAPPER = {
    "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
    "target": {"uses_label": True},
}
TASK = {
    "criterion": {"key": "CrossEntropyLoss", "kwargs": {}},
    "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": WRAPPER},
    "weight": 1.0,
}


def outputs(*paths: str, inputs: tuple[str, ...] = (), wrapped: str = "", **options: Any) -> dict[str, Any]:
    """The configuration of a network: what is hooked, and which auxiliary wrapper it gets."""
    hooks = {"input": list(inputs), "output": list(paths)}
    config: dict[str, Any] = {"forward_proc": "forward_batch_only", "forward_hook": hooks}
    if wrapped:
        config["auxiliary_model_wrapper"] = {"key": wrapped, "kwargs": options}
    return config


def term(key: str, **options: Any) -> dict[str, Any]:
    """A loss term of weight 1."""
    return {"criterion": {"key": key, "kwargs": options}, "weight": 1.0}


def pair(student: str, teacher: str, student_io: str = "output", teacher_io: str = "output") -> dict[str, Any]:
    """A pair of module paths in the form of the losses on several layers."""
    return {
        "student": {"io": student_io, "path": student},
        "teacher": {"io": teacher_io, "path": teacher},
        "weight": 1.0,
    }


def ends(key: str, path: str, io: str = "output", **options: Any) -> dict[str, Any]:
    """A term that names the module and its side on both networks."""
    sides = {f"{role}_module_{what}": value for role in ("student", "teacher") for what, value in (("path", path), ("io", io))}
    return term(key, **sides, **options)


def alike(terms: dict[str, Any], *paths: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Both networks hooked at the same outputs."""
    return outputs(*paths), outputs(*paths), terms


def inside(paths: Iterable[str]) -> list[str]:
    """Paths in the student inside an auxiliary wrapper."""
    return [f"student_model.{path}" for path in paths]


def at() -> tuple[dict[str, Any], ...]:
    """Attention of the stages."""
    return alike({"at": term("ATLoss", at_pairs={stage: pair(stage, stage) for stage in STAGES}, mode="code")}, *STAGES)


def fsp() -> tuple[dict[str, Any], ...]:
    """Flow from the stem to the first stage, and from each stage to the next."""
    order = ["act1", *STAGES]
    flows = {
        later: {
            f"{role}_{place}": {"io": "output", "path": path}
            for role in ("student", "teacher")
            for place, path in (("first", earlier), ("second", later))
        }
        for earlier, later in pairwise(order)
    }
    return alike({"fsp": term("FSPLoss", fsp_pairs=flows)}, *order)


def rkd() -> tuple[dict[str, Any], ...]:
    """Relations of the embeddings."""
    paths = {"student_output_path": "flatten", "teacher_output_path": "flatten"}
    return alike({"rkd": term("RKDLoss", **paths, dist_factor=1.0, angle_factor=2.0, reduction="mean")}, "flatten")


def sp() -> tuple[dict[str, Any], ...]:
    """Similarities of the last maps."""
    paths = {"student_output_path": "layer3", "teacher_output_path": "layer3"}
    return alike({"sp": term("SPKDLoss", **paths, reduction="batchmean")}, "layer3")


def cc() -> tuple[dict[str, Any], ...]:
    """Kernels of the embeddings, each behind a linear layer."""
    options = {
        "input_module": {"path": "model.flatten", "io": "output"},
        "linear_kwargs": {"in_features": 64, "out_features": WIDTH},
        "wrapped": "Linear4CCKD",
    }
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    paths = {"student_linear_path": "linear", "teacher_linear_path": "linear"}
    loss = term("CCKDLoss", **paths, kernel_config=kernel, reduction="batchmean")
    sides = [outputs("model.flatten", "linear", **options) for _ in range(2)]
    return (*sides, {"cc": loss})


def vid() -> tuple[dict[str, Any], ...]:
    """Regressors of the stages."""
    regressors = {
        stage: {
            "io": "output",
            "path": f"student_model.{stage}",
            "kwargs": {"in_channels": c, "middle_channels": c, "out_channels": c, "eps": 1e-5, "init_pred_var": 5.0},
        }
        for stage, c in STAGES.items()
    }
    made = {stage: f"regressor_dict.{stage}" for stage in STAGES}
    student = outputs(*inside(STAGES), *made.values(), wrapped="VariationalDistributor4VID", regressors=regressors)
    pairs = {stage: pair(path, stage) for stage, path in made.items()}
    return student, outputs(*STAGES), {"vid": term("VIDLoss", feature_pairs=pairs)}


def crd() -> tuple[dict[str, Any], ...]:
    """Contrast with stored embeddings."""
    options = {
        "input_module_path": "model.flatten",
        "linear_kwargs": {"in_features": 64, "out_features": WIDTH},
        "wrapped": "Linear4CRD",
    }
    sides = [
        {**outputs("model.flatten", "normalizer", inputs=("empty",), **options), "forward_proc": "forward_batch_supp_dict"}
        for _ in range(2)
    ]
    paths = {"student_norm_module_path": "normalizer", "teacher_norm_module_path": "normalizer"}
    sizes = {"input_size": WIDTH, "output_size": SAMPLES, "num_negative_samples": NEGATIVES, "num_samples": SAMPLES}
    return (*sides, {"crd": term("CRDLoss", **paths, student_empty_module_path="empty", **sizes)})


def srd() -> tuple[dict[str, Any], ...]:
    """Normalised embeddings, the student's behind a projector."""
    options = {"input_module": {"path": "model.layer3", "io": "output"}, "wrapped": "SRDModelWrapper"}
    norm = {"norm_kwargs": {"num_features": 64, "eps": 1e-4, "affine": False}}
    linear = {"linear_kwargs": {"in_features": 64, "out_features": 64, "bias": False}}
    sides = [outputs("model.layer3", "norm_layer", **options, **norm, **more) for more in (linear, {})]
    names = {
        f"{role}_{what}_module_{key}": value
        for role in ("student", "teacher")
        for what, path in (("feature", "norm_layer"), ("linear", "."))
        for key, value in (("path", path), ("io", "output"))
    }
    return (*sides, {"srd": term("SRDLoss", **names, exponent=4.0, temperature=1.0)})


def fitnet() -> tuple[dict[str, Any], ...]:
    """A hint behind a 1 x 1 convolution and batch normalisation."""
    convolution = {"in_channels": 32, "out_channels": 32, "kernel_size": 1, "bias": False}
    connector = {
        "io": "output",
        "path": "student_model.layer2",
        "conv2d_kwargs": convolution,
        "bn2d_kwargs": {"num_features": 32},
    }
    made = "connector_dict.hint"
    student = outputs("student_model.layer2", made, wrapped="Connector4DAB", connectors={"hint": connector})
    sides = {
        "input": {"is_from_teacher": False, "module_path": made, "io": "output"},
        "target": {"is_from_teacher": True, "module_path": "layer2", "io": "output"},
    }
    loss = {
        "criterion": {"key": "MSELoss", "kwargs": {}},
        "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": sides},
        "weight": 1.0,
    }
    return student, outputs("layer2"), {"hint": loss}


def reviewkd() -> tuple[dict[str, Any], ...]:
    """Fused maps of the stages and the embedding, against the teacher's maps before their last activation."""
    levels = {**STAGES, "global_pool": 64}
    abfs = [
        {"io": "output", "path": f"student_model.{path}", "kwargs": {"in_channels": c, "mid_channels": 64, "out_channels": c}}
        for path, c in levels.items()
    ]
    made = [f"abf_modules.{number}" for number in range(len(abfs))]
    student = outputs(*inside(levels), *made, wrapped="Student4KnowledgeReview", abfs=abfs, sizes=[1, 8, 16, 32])
    before = [f"{block}.act2" for block in LAST["teacher"].values()]
    teacher = outputs("global_pool", inputs=tuple(before))
    wanted = [("global_pool", "output"), *((path, "input") for path in reversed(before))]
    terms = {
        f"level{number}": term(
            "HierarchicalContextLoss",
            student_module_path=path,
            student_module_io="output",
            teacher_module_path=target,
            teacher_module_io=io,
        )
        for number, (path, (target, io)) in enumerate(zip(made, wanted, strict=True))
    }
    return student, teacher, terms


def ft() -> tuple[dict[str, Any], ...]:
    """Factors of the last maps; the second stage, in which the paraphraser is ready."""
    sizes = {"num_input_channels": 64, "uses_bn": True}
    teacher = outputs(
        "teacher_model.layer3",
        "paraphraser",
        wrapped="Teacher4FactorTransfer",
        minimal=None,
        input_module_path="teacher_model.layer3",
        paraphraser_kwargs={"k": 0.5, **sizes},
        paraphraser_ckpt="",
        uses_decoder=False,
    )
    student = outputs(
        "student_model.layer3",
        "translator",
        wrapped="Student4FactorTransfer",
        input_module_path="student_model.layer3",
        translator_kwargs={"num_output_channels": 32, **sizes},
    )
    return student, teacher, {"ft": term("FTLoss", paraphraser_path="paraphraser", translator_path="translator")}


def ab() -> tuple[dict[str, Any], ...]:
    """Boundaries of the stages before their last activation; the first stage, without the task."""
    places = {role: {stage: f"{block}.act2" for stage, block in LAST[role].items()} for role in LAST}
    pairs = {stage: pair(places["student"][stage], places["teacher"][stage], "input", "input") for stage in STAGES}
    sides = (outputs(inputs=tuple(places[role].values())) for role in ("student", "teacher"))
    return (*sides, {"ab": term("AltActTransferLoss", feature_pairs=pairs, margin=1.0, reduction="mean"), "alone": None})


METHODS = {
    "st": lambda: alike({"kd": term("KDLoss", **LOGITS, temperature=4.0, alpha=0.1, beta=0.9), "alone": None}),
    "lskd + st": lambda: alike({"kd": term("LogitStdKDLoss", **LOGITS, temperature=2.0, alpha=0.1, beta=0.9), "alone": None}),
    "dist": lambda: alike({"dist": term("DISTLoss", **LOGITS, tau=4.0)}),
    "at": at,
    "sp": sp,
    "pkt": lambda: alike({"pkt": ends("PKTLoss", "flatten")}, "flatten"),
    "rkd": rkd,
    "cc": cc,
    "fsp": fsp,
    "vid": vid,
    "crd": crd,
    "srd": srd,
    "fitnet": fitnet,
    "reviewkd": reviewkd,
    "ft": ft,
    "ab": ab,
}
"""method -> configurations of student and teacher, and terms; ``alone`` stands for those without the task's own term."""
