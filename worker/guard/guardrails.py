"""Screens all the words of a job before anything is fetched for it; `docs/guardrails.md` says what is blocked and why.

The database screens requests when they are inserted. Here everything is screened again, as it is when the job starts:
presets, trigger words and captions merged, and what a retry brings back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from worker.errors import PromptBlocked
from worker.guard import screening
from worker.jobs.lease import StartedJob
from worker.jobs.wording import CLASS_NAME, TRIGGER_WORD, caption, merged_negative_prompt, merged_prompt, name_class


@dataclass(frozen=True)
class Words:
    """Some words of a job that reach a model; `what` names them to the app's user without quoting them."""

    what: str
    text: str
    kind: screening.Kind = "prompt"


def require(job: StartedJob) -> None:
    """Raises PromptBlocked for the first words that break a rule. The message never repeats them."""
    for words in words_of(job):
        rule = screening.find(words.text, words.kind)
        if rule is not None:
            raise PromptBlocked(f"{words.what} asks for {rule.asks} (rule {rule.id}); change it and insert another job")


def words_of(job: StartedJob) -> Iterator[Words]:
    """All words of a job that reach a model, of whatever kind it is: by the names of its columns."""
    row = job.row
    if "prompt" in row:
        yield Words("the prompt", merged_prompt(row["prompt"] or "", job.preset, job.models))
        negative_prompt = merged_negative_prompt(row.get("negative_prompt"), job.preset)
        yield Words("the negative prompt", negative_prompt or "", "negative_prompt")
    if "trigger_word" in row:
        trigger_word = row["trigger_word"] or (job.subject.trigger_word if job.subject else None) or TRIGGER_WORD
        yield Words("the trigger word", trigger_word)
        yield from _captions(job, trigger_word, row.get("class_name") or CLASS_NAME)


def _captions(job: StartedJob, trigger_word: str, class_name: str) -> Iterator[Words]:
    """What the photographs are said to show, of the person and of the person's class."""
    yield Words("the class name", class_name)
    for photo in job.photos:
        what, text = f"the caption of {PurePosixPath(photo.path).name}", caption(photo, trigger_word)
        yield Words(what, text)
        yield Words(what, name_class(text, trigger_word, class_name))
