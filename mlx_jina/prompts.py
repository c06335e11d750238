"""What is put in front of a text, and for which task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_jina.errors import InputError


def prefix(prompts: Mapping[str, str], default: str | None, prompt_name: str | None, prompt: str | None) -> str:
    """The prefix of every text: `prompt` itself if given, else the one named, else the default one."""
    if prompt is not None:
        return prompt
    name = prompt_name if prompt_name is not None else default
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(prompts) or "none: this model was trained without prompts"
        raise InputError(f"prompt_name={name!r} is unknown to this model (known: {known})")
    return prompts[name]


def check_task(task: str | None, tasks: Sequence[str]) -> None:
    """Raise for a task the model was not trained for."""
    if task is not None and task not in tasks:
        known = ", ".join(tasks) or "none: this model has one vector space for every task"
        raise InputError(f"task={task!r} is unknown to this model (known: {known})")
