"""Uploads a folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from kdengine._version import __version__
from kdengine.errors import SettingsError, StorageError, cause

__all__ = ["check_login", "upload"]

LOGIN = "Log in with 'hf auth login', or set HF_TOKEN to a token that may write: https://huggingface.co/settings/tokens."
REFUSED = (401, 403)


def check_login() -> None:
    """Refuse to begin without a token.

    Raises:
        SettingsError: there is none.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise SettingsError(f"You are not logged in to the Hugging Face Hub. {LOGIN}")


def upload(folder: Path, repo: str, private: bool, message: str) -> str:
    """Create the repository unless it exists, and make one commit of the files of a folder.

    Args:
        folder: the files.
        repo: ``USER/NAME`` or ``NAME``.
        private: whether a repository that is created is private; one that exists stays as it is.
        message: of the commit.

    Returns:
        its address.

    Raises:
        SettingsError: the token may not do that.
        StorageError: the hub cannot be reached, or refuses for another reason.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(library_name="kdengine", library_version=__version__)
        created = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=created.repo_id, folder_path=str(folder), commit_message=message)
    except Exception as error:  # of a library and of a network
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in REFUSED:
            raise SettingsError(f"The hub does not let you write to '{repo}' ({cause(error)[:300]}). {LOGIN}") from error
        raise StorageError(
            f"'{repo}' could not be uploaded: {cause(error)[:300].rstrip('.')}. Nothing of the run is lost: try again, or keep "
            "the files with --out FOLDER and upload them later: hf upload REPO FOLDER."
        ) from error
    return str(created)
