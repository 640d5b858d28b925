"""Publishes the student of a run: a folder with its weights and a card, uploaded to the Hugging Face Hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdengine.errors import SettingsError, StorageError
from kdengine.runs.past_student import PastStudent
from kdengine.shipping.hub import check_login, upload
from kdengine.shipping.model_card import card_of, without_home
from kdengine.shipping.publication import Publication, checked_repo
from kdengine.shipping.timm_form import package_of, write_in_timm_form
from kdengine.storage.names import PUBLISHED
from kdengine.storage.runfolder import RunFolder
from kdengine.storage.writing import save_tensors

__all__ = ["push"]

CARD = "README.md"
KEPT = ("result.json", "metrics.jsonl")
"""Files of the run that are published with it: its numbers."""


def push(
    run: str | Path,
    repo: str,
    *,
    weights: str = "last",
    out: str | Path | None = None,
    dry_run: bool = False,
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
    data: str | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Publish the student of a finished run, or the network that its methods deploy, on the Hugging Face Hub.

    The files are the weights, a card, the settings and numbers of the run, and timm's ``config.json`` where timm builds the
    same network, bit by bit: ``timm.create_model("hf-hub:REPO", pretrained=True)`` then loads it. The commands of kdengine take
    the folder as they take that of a run.

    Args:
        run: the run folder.
        repo: the repository, ``USER/NAME`` or ``NAME``; it is created unless it exists.
        weights: ``"last"``, ``"best"`` or ``"ema"``, the moving average.
        out: a new folder in which the files are kept.
        dry_run: write ``out``, and upload nothing.
        private: create a private repository.
        license: the licence of the student as the hub names it, such as ``"apache-2.0"``.
        message: of the commit.
        data: a data spec to use instead of the run's, where data is needed.
        trust: run third-party code that the folder names.

    Returns:
        ``repo``, ``url`` (None if nothing was uploaded), ``folder`` (None unless it is kept), ``files``, and ``timm``: whether
        timm loads it, with the reason in ``not_timm`` if it does not.

    Raises:
        KDError: the run is not finished, its student cannot be rebuilt, the folder exists, or the hub refuses.
    """
    checked_repo(repo)
    kept = _checked(out, dry_run)
    if not dry_run:
        check_login()
    student = PastStudent.open(run, weights, data=data, trust=trust, device="cpu", images=False)
    published = Publication.of(Path(run), repo, student, weights, license)
    with _new_folder(kept) as folder:
        published = _write(published, Path(run), folder)
        url = None if dry_run else upload(folder, repo, private, message or f"{published.name}, made with kdengine")
        files = sorted(path.name for path in folder.iterdir())
    facts = {"repo": repo, "url": url, "folder": None if kept is None else str(kept), "files": files}
    return {**facts, "timm": published.package is not None, "not_timm": published.not_timm or None}


def _checked(out: str | Path | None, dry_run: bool) -> Path | None:
    """The folder in which the files are kept, if they are.

    Raises:
        SettingsError: it exists, or is missing.
    """
    if out is None and dry_run:
        raise SettingsError("--dry-run uploads nothing, so it needs --out FOLDER for the files.")
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"--out '{out}' exists. Name a new folder, or remove this one first.")
    return folder


@contextmanager
def _new_folder(kept: Path | None) -> Iterator[Path]:
    """A folder to write into, which becomes the one to keep once everything is written, before anything is uploaded."""
    with TemporaryDirectory(prefix="kdengine-push-") as temporary:
        try:
            yield Path(temporary)
        finally:
            if kept is not None and (Path(temporary) / CARD).is_file():
                _keep(Path(temporary), kept)


def _keep(folder: Path, kept: Path) -> None:
    try:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot write '{kept}': {error.strerror or error}. Choose another --out.") from error


def _write(published: Publication, run: Path, folder: Path) -> Publication:
    """Write all files; the card comes last, for it says whether timm loads the network.

    Returns:
        the publication with that.
    """
    student = published.student
    reason = write_in_timm_form(student, folder)
    save_tensors(folder / PUBLISHED, student.network.state_dict(), {"format": "pt"})
    package = package_of(student.network) if reason is None else None
    published = replace(published, package=package, not_timm=reason or "")
    _write_settings(published, run, folder)
    for name in (*KEPT, *(["connectors.safetensors"] if student.result.get("deployed_by") else [])):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    for name in KEPT:
        if (folder / name).is_file():
            file = folder / name
            file.write_text(without_home(file.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / CARD).write_text(card_of(published), encoding="utf-8")
    return published


def _write_settings(published: Publication, run: Path, folder: Path) -> None:
    """Write ``run.toml``, by which the run is repeated anywhere: teachers that were trained for it are trained again."""
    settings = RunFolder(run).settings()
    weights = settings.weights_of_teachers
    trained = ["folder" in teacher.facts for teacher in published.teachers]
    if any(trained):
        settings = settings.with_teacher_weights([None if own else path for own, path in zip(trained, weights, strict=True)])
    files = RunFolder(folder)
    files.write_settings(settings)
    files.write_text("run.toml", without_home((folder / "run.toml").read_text(encoding="utf-8")))
