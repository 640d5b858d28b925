"""The card of a published student: metadata for the hub, and a page for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdengine._version import __version__
from kdengine.config.settings import Settings
from kdengine.config.specs import Spec
from kdengine.errors import DataError, counted
from kdengine.shipping.how_to_load import how_to_load, images_in_words
from kdengine.shipping.provenance import Origin, spread
from kdengine.shipping.publication import Publication

__all__ = ["PIPELINES", "card_of", "without_home"]

PIPELINES = {
    "classes": "image-classification",
    "labels": "image-classification",
    "pixels": "image-segmentation",
    "embedding": "image-feature-extraction",
}
"""What the hub calls networks with these outputs."""
METRICS = {"top1": "accuracy", "top5": "top_5_accuracy", "miou": "mean_iou", "map": "mean_average_precision"}
"""What the hub calls some measures; others keep their names."""
NAMED = 100
"""Classes up to which the card lists all."""


def card_of(published: Publication) -> str:
    """The card, as ``README.md`` of the repository."""
    text = "\n\n".join(section for section in _sections(published) if section)
    return without_home(f"---\n{_metadata(published).strip()}\n---\n\n{text}\n")


def without_home(text: str) -> str:
    """Text in which paths below the home folder start with ``~``, so that it does not tell whose they are."""
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"{re.escape(home)}(?=[/\\\s\"']|$)", "~", text)


def _metadata(published: Publication) -> str:
    """The metadata in YAML."""
    from huggingface_hub import ModelCardData

    task = published.student.task
    pipeline = PIPELINES.get(task.outputs)
    tags = ["kdengine", "knowledge-distillation" if published.teachers else "image-model", *published.methods]
    tags += ["timm"] if published.package else []
    results = _results(published, pipeline) if pipeline else []
    data: Any = ModelCardData(
        license=published.licence or "unknown",
        library_name="timm" if published.package == "timm" else "kdengine",
        pipeline_tag=pipeline,
        tags=tags,
        datasets=_datasets(published.student.settings),
        metrics=[METRICS.get(measure.name, measure.name) for measure, _ in published.scores] or None,
        model_name=published.name,
        eval_results=results or None,
    )
    return without_home(str(data.to_yaml()))


def _results(published: Publication, pipeline: str) -> list[Any]:
    """The scores as entries of the hub's index of models."""
    from huggingface_hub import EvalResult

    name = without_home(published.student.settings.data)
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=re.sub(r"[^\w./-]+", "-", name).strip("-"),
            dataset_name=name,
            dataset_split="test",
            metric_type=METRICS.get(measure.name, measure.name),
            metric_name=measure.title,
            metric_value=round(float(value), 4),
        )
        for measure, value in published.scores
    ]


def _datasets(settings: Settings) -> list[str] | None:
    """The data on the hub, if it is there."""
    spec = Spec.parse(settings.data, DataError)
    return [spec.name] if spec.scheme == "hf" and re.fullmatch(r"[\w.-]+/[\w.-]+", spec.name) else None


def _sections(published: Publication) -> Iterator[str]:
    yield f"# {published.name}\n\n{_summary(published)}"
    yield f"## Scores\n\n{_scores(published)}"
    yield f"## Use\n\n{how_to_load(published)}"
    yield f"## Images\n\n{images_in_words(published.student)}"
    yield f"## Training\n\n{_facts(published)}"
    yield f"## Reproduce\n\n{_reproduce(published)}"
    yield _classes(published.student.output_names)
    yield "## Limits\n\n" + "\n".join(f"* {limit}" for limit in _limits(published))


def _summary(published: Publication) -> str:
    settings, headline = published.student.settings, published.scoring.headline
    taught = " and ".join(f"`{teacher.name}`" for teacher in published.teachers)
    how = f"distilled from {taught} with {', '.join(published.methods)}" if taught else "trained without a teacher"
    score = next((f": {headline.label} {headline.shown(value)}" for known, value in published.scores if known == headline), "")
    return f"`{settings.student}`, {how} on `{settings.data}`{score} on the test images. Made with kdengine {__version__}."


def _scores(published: Publication) -> str:
    """The scores of student and teachers, and those of all trials."""
    heads = ["", *(measure.title for measure, _ in published.scores)]
    epoch = {"last": "after the last epoch", "best": "after the best epoch", "ema": "moving average"}[published.weights]
    rows = [[f"this model ({epoch})", *(_number(value) for _, value in published.scores)]]
    for teacher in published.teachers:
        rows.append([f"teacher `{teacher.name}`", *(_number(teacher.facts.get(m.name)) for m, _ in published.scores)])
    return "\n\n".join([_table(heads, rows), _trials(published)])


def _trials(published: Publication) -> str:
    """The seed, or every trial of the comparison with its seed."""
    headline, seed = published.scoring.headline, published.student.settings.seed
    if len(published.trials) == 1:
        return f"Seed {seed}, one run."
    rows = [[str(trial.seed), _number(trial.last), _number(trial.best)] for trial in published.trials]
    of_all = spread([trial.last for trial in published.trials])
    mean = f": {of_all[0]:.2f} ± {of_all[1]:.2f} (mean and standard deviation of the last {headline.label})" if of_all else ""
    table = _table(["seed", f"last {headline.title}", f"best {headline.title}"], rows)
    return f"{len(rows)} trials of the same comparison{mean}. This model is the one of seed {seed}.\n\n{table}"


def _facts(published: Publication) -> str:
    student, data = published.student.result["student"], published.data
    spec = f"`{published.student.settings.data}`"
    images = f"{data.get('train_images', '?')} training and {data.get('test_images', '?')} test images"
    taught = [f"{_teacher(teacher)}. Licence of its weights: {teacher.licence}" for teacher in published.teachers]
    rows = [
        ["network", _network(published)],
        ["licence of the weights that it started from", published.start.licence],
        *(["teacher", text] for text in taught),
        ["method", _methods(published)],
        ["task", published.student.task.name],
        ["data", f"{spec}: {images}, {data.get('num_classes', '?')} classes; fingerprint `{data.get('fingerprint', '?')}`"],
        ["training", _training(published, student["epochs"])],
        ["made with", _versions(published)],
    ]
    return _table(["", ""], rows)


def _network(published: Publication) -> str:
    student = published.student.result["student"]
    by = ", ".join(published.student.result.get("deployed_by", ()))
    flops = f", {student['flops'] / 1e6:,.1f} MFLOPs an image (a multiply-add counts as two)" if student.get("flops") else ""
    deployed = f", as {by} deploys it" if by else ""
    return f"`{published.student.settings.student}`{deployed}: {student['parameters']:,} parameters{flops}"


def _training(published: Publication, epochs: int) -> str:
    train = published.student.settings.train
    duration = counted(epochs, "epoch")
    return f"{duration} in batches of {train.batch_size}, {train.optimizer}, lr {train.lr}; all settings are in `run.toml`"


def _teacher(teacher: Origin) -> str:
    parameters = teacher.facts.get("parameters")
    return f"`{teacher.name}`" + (f", {parameters:,} parameters" if parameters else "")


def _methods(published: Publication) -> str:
    """Each method with its options."""
    options = published.student.settings.options
    said = [
        f"{key} ({', '.join(f'{name}={value}' for name, value in options.get(key, {}).items())})" for key in published.methods
    ]
    return "; ".join(said) or "none"


def _versions(published: Publication) -> str:
    manifest = published.manifest
    packages = [f"{name} {version}" for name, version in manifest.get("versions", {}).items() if version]
    machine = [str(manifest[name]) for name in ("device_name", "precision") if manifest.get(name)]
    python = [f"Python {manifest['python']}"] if "python" in manifest else []
    return ", ".join([*packages, *python, *machine]) or f"kdengine {__version__}"


def _reproduce(published: Publication) -> str:
    settings = published.student.settings
    objects = [spec for spec in (*settings.teachers, settings.student) if spec.startswith("module:")]
    if objects:
        return (
            "The run was given a network as an object in Python, so no command repeats it; `run.toml` has its other settings."
        )
    files = [path for path in (*settings.weights_of_teachers, settings.student_weights) if path]
    note = "\n\nIt needs the files of weights and the data that `run.toml` names." if files else ""
    return f"```console\n$ hf download {published.repo} run.toml --local-dir .\n$ kdengine run run.toml\n```{note}"


def _classes(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(f"{index}: {name}" for index, name in enumerate(names[:NAMED]))
    more = f" ... and {len(names) - NAMED} more; `result.json` has all" if len(names) > NAMED else ""
    return f"## Classes\n\n{shown}{more}"


def _limits(published: Publication) -> Iterator[str]:
    """What the numbers do not say."""
    result = published.student.result
    for warning in result.get("warnings", ()):
        yield f"Its numbers mean little: {warning}"
    if len(published.trials) == 1:
        yield "A single seed: the scores of another one may differ by more than those of another method."
    if published.weights == "best" and not any(row.get(f"val_{published.scoring.headline.name}") for row in published.rows):
        yield "The best epoch was chosen by its score on the test images, which flatters that score."
    if published.student.task.outputs == "classes":
        yield f"It knows {len(published.student.classes)} classes, and gives one of them for any image whatever."
    yield f"It was measured on the test images of `{published.student.settings.data}` alone."
    if published.teachers:
        yield "What its teacher gets wrong or is biased in, it may have learned too."
    if published.licence is None:
        yield "Its author has not chosen a licence. Those of teacher, data and initial weights may restrict its use."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
