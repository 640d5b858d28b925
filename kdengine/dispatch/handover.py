"""What a driver lays down in the shared folder for its workers: a token, and the teachers with all that is known of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdengine.errors import LaunchError
from kdengine.networks.fingerprint import fingerprint
from kdengine.networks.weights import load_weights
from kdengine.runs.session import Session
from kdengine.storage.reading import read_json
from kdengine.storage.writing import write_json, write_tensors, write_text

__all__ = ["TEACHERS", "lay_teachers", "lay_token", "take_teachers"]

TEACHERS = "teachers.json"


def lay_token(folder: Path) -> dict[str, str]:
    """Write a file that every worker must see, which shows that the disk is shared; returns its ``path`` and ``text``."""
    path, text = folder.absolute() / "token", secrets.token_hex(16)
    write_text(path, text)
    return {"path": str(path), "text": text}


def lay_teachers(session: Session, facts: Mapping[str, Any] | None, folder: Path) -> None:
    """Write the weights of teachers that were trained first, and the facts about all of them.

    Args:
        session: its teachers are ready.
        facts: what :func:`kdengine.runs.ready_teachers.ready_teachers` says of them.
        folder: where to write.
    """
    trained = [member.get("folder") is not None for member in (facts or {}).get("members", [facts or {}])]
    files: list[str | None] = []
    for number, (teacher, own) in enumerate(zip(session.teachers, trained, strict=False), 1):
        name = f"teacher-{number}.safetensors" if own else None
        if name is not None:
            write_tensors(folder / name, teacher.network.module.state_dict())
        files.append(name)
    write_json(folder / TEACHERS, {"facts": facts, "files": files})


def take_teachers(session: Session, folder: Path) -> dict[str, Any] | None:
    """Give the teachers of a session the weights that the driver has, and return the facts about them.

    Raises:
        LaunchError: a teacher differs from the driver's.
    """
    stored = read_json(folder / TEACHERS)
    facts: dict[str, Any] | None = stored["facts"]
    if facts is None:
        return None
    for teacher, file, known in zip(session.teachers, stored["files"], facts.get("members", [facts]), strict=True):
        if file is not None:
            load_weights(teacher.network.module, folder / file, teacher.network.name)
        if file is None and teacher.is_trained_first:
            continue  # nobody learns from its weights
        here = fingerprint(teacher.network.module)
        if here != known["fingerprint"]:
            raise LaunchError(
                f"The {teacher.role} '{teacher.network.name}' differs from the driver's (fingerprint {here}, not "
                f"{known['fingerprint']}): its weights are not the same file. Give --teacher-weights on the shared disk."
            )
    return facts
