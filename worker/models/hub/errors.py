"""Translate errors of the Hugging Face hub into CommandRefused. Their own messages may contain signed URLs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import CommandRefused


@contextmanager
def translate_hub_errors(repo: str, revision: str | None, models_dir: Path) -> Iterator[None]:
    """Raise CommandRefused for errors of the hub, the network and the disk."""
    from huggingface_hub import errors

    try:
        yield
    except (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.HTTPError,  # type: ignore[attr-defined]  # httpx's or requests', depending on the hub's release
        OSError,
    ) as error:
        raise CommandRefused(_describe(error, repo, revision, models_dir)) from None


def _describe(error: Exception, repo: str, revision: str | None, models_dir: Path) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return _describe_gate(repo, error.response.status_code)
        case errors.RepositoryNotFoundError():
            return (
                f"repository {repo} not found, or it is private: check the name (OWNER/NAME), and set HF_TOKEN for a "
                "private one"
            )
        case errors.RevisionNotFoundError():
            return f"revision {revision} of {repo} not found: use a branch, a tag or a commit"
        case errors.HFValidationError():
            return f"{repo!r} is not a valid repository name: use OWNER/NAME"
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set: unset it for this command, which needs the hub"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            hint = ": HF_TOKEN is not accepted, create a new one" if status in (401, 403) else "; try again later"
            return f"the hub responded {status} for {repo}{hint}"
        case errors.LocalEntryNotFoundError() | errors.HTTPError():  # type: ignore[attr-defined]
            return (
                f"the hub cannot be reached ({type(error).__name__}): check the network, or set HF_ENDPOINT to a "
                "mirror; downloaded files are kept"
            )
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"{models_dir} cannot be written: {reason}; downloaded files are kept"


def _describe_gate(repo: str, status: int) -> str:
    page = f"https://huggingface.co/{repo}"
    if status == 401:
        hint = f"accept its terms on {page}, create a token (Settings → Access Tokens → Read) and set HF_TOKEN"
    else:
        hint = f"the account of HF_TOKEN does not have access: accept the terms on {page} and wait for approval"
    return f"{repo} is gated: {hint}"
