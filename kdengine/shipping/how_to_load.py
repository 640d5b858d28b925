"""The part of a card that says how to load a published student, and how to prepare images for it."""

from __future__ import annotations

from kdengine.runs.past_student import PastStudent
from kdengine.shipping.publication import Publication

__all__ = ["how_to_load", "images_in_words"]


def how_to_load(published: Publication) -> str:
    """Code and commands that load the student, with timm where timm builds it, and with kdengine."""
    return "\n\n".join([*([_with_timm(published)] if published.package else []), _with_kdengine(published)])


def _with_timm(published: Publication) -> str:
    package = str(published.package)
    imported = "import timm" if package == "timm" else f"import timm\n\nimport {package}  # registers the network with timm"
    return f"""With timm{"" if package == "timm" else f" and {package}"}:

```python
{imported}

model = timm.create_model("hf-hub:{published.repo}", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
output = model(transform(image).unsqueeze(0))  # image: a PIL image in RGB
```"""


def _with_kdengine(published: Publication) -> str:
    settings = published.student.settings
    deployed_by = published.student.result.get("deployed_by", ())
    trust = " --trust" if any(spec.startswith("python:") for spec in (settings.student, settings.data)) else ""
    needs = [f"the code of `{settings.student}`"] if settings.student.startswith("python:") else []
    if deployed_by:
        needs.append(f"the plugins of {', '.join(deployed_by)}, which deploy this network, and the data of the run")
    reason = "" if published.package else f"It cannot be loaded with timm alone, for {published.not_timm}. "
    note = f" It needs {' and '.join(needs)}." if needs else ""
    return f"""{reason}With kdengine:{note}

```console
$ hf download {published.repo} --local-dir {published.name}
$ kdengine predict {published.name} photo.jpg{trust}
$ kdengine export {published.name} --to onnx{trust}
```

To train it further: `kdengine train --model '{settings.student}' --weights {published.name} --data SPEC`."""


def images_in_words(student: PastStudent) -> str:
    """What is done to an image file before the network receives it."""
    given, wanted, fitting = student.preprocess.given, student.preprocess.wanted, student.data.test.fitting
    channels, rows, columns = given.size
    mean, std = (list(getattr(wanted, name) or getattr(given, name) or ()) for name in ("mean", "std"))
    resized = ""
    if student.preprocess.resizes:
        resized = (
            f"* these are then resized to {wanted.size[1]} x {wanted.size[2]} pixels (bicubic, antialiased); timm resizes "
            "once, from the file, so its outputs differ a little from those of the run\n"
        )
    normalised = "* normalised by the user's own loaders, which are not recorded"
    if mean and std:
        normalised = f"* values from 0 to 1, minus mean {mean}, divided by std {std}"
    return (
        f"* {'RGB' if channels == 3 else f'{channels} channels'}, resized ({fitting.interpolation}) until they cover "
        f"{rows} x {columns} pixels, the centre cropped (share {fitting.crop:g})\n{resized}{normalised}"
    )
