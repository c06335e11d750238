"""What is put in front of a text, and for which task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_jina.errors import InputError

QUERY, DOCUMENTS = "query", ("document", "passage")
_SYNONYMS = {"document": "passage", "passage": "document"}
# Both sides of these get the same prompt, the default one: only retrieval tells queries from documents.
_SYMMETRIC = ("text-matching", "clustering", "classification", "separation")


def _key(prompts: Mapping[str, str], name: str, task: str | None) -> str | None:
    """What the model itself calls a prompt: some have a query's and a document's for each task."""
    names = (name, _SYNONYMS.get(name, name))
    return next((key for own in names for key in (f"{task}_{own}", own) if key in prompts), None)


def prefix(
    prompts: Mapping[str, str],
    default: str | None,
    prompt_name: str | None,
    prompt: str | None,
    task: str | None = None,
    tasks: Sequence[str] = (),
) -> str:
    """The prefix of every text: `prompt` itself if given, else the one named, else the default one.

    Where each of `tasks` has its own, those of `task` are meant, or of the first. A prompt that is named after a
    task is that task's default.
    """
    if prompt is not None:
        return prompt
    own = task or (tasks[0] if len(tasks) == 1 else None)
    name = prompt_name if prompt_name is not None else own if own in prompts else default
    if name is None:
        return ""
    key = _key(prompts, name, task or next(iter(tasks), None))
    if key is None:
        known = ", ".join(prompts) or "none: this model was trained without prompts"
        raise InputError(f"prompt_name={prompt_name or default!r} is unknown to this model (known: {known})")
    foreign = key != own and (own in prompts or key in tasks)
    if foreign or (f"{task}_{QUERY}" in prompts and not key.startswith(f"{task}_")):
        raise InputError(f"task={task!r} and prompt_name={prompt_name!r} contradict each other; give one of them")
    return prompts[key]


def tasks_with_prompts(prompts: Mapping[str, str]) -> tuple[str, ...]:
    """Tasks that have a query's prompt of their own, by the names that sentence-transformers' files give them."""
    return tuple(name.removesuffix(f"_{QUERY}") for name in prompts if name.endswith(f"_{QUERY}"))


def split_task(task: str) -> tuple[str, str | None]:
    """The Jina API's names hold the side as well: "retrieval.query" is `retrieval` with the prompt `query`."""
    name, _, side = task.rpartition(".")
    return (name, side) if name and side in (QUERY, *DOCUMENTS) else (task, None)


def choose_task(
    task: str | None, prompt_name: str | None, tasks: Sequence[str], required: bool = False
) -> tuple[str | None, str | None]:
    """The task, one of `tasks`, and the prompt that its name implies, checked against the one named."""
    known = ", ".join(tasks) or "none: this model has one vector space for every task"
    if task is None:
        if required:
            raise InputError(f"this model needs a task, here or in load(..., task=): {known}")
        return None, prompt_name
    name, side = (task, None) if task in tasks else split_task(task)
    if name not in tasks or (side is not None and name in _SYMMETRIC):
        raise InputError(f"task={task!r} is unknown to this model (known: {known})")
    if side is not None and prompt_name not in (None, side, _SYNONYMS.get(side)):
        raise InputError(f"task={task!r} and prompt_name={prompt_name!r} contradict each other; give one of them")
    return name, prompt_name or side


def task_of_side(names: Sequence[str], task: str | None, tasks: Sequence[str]) -> str | None:
    """`task`; without one, the task of this side if the model has one for each, such as "retrieval.query"."""
    sides = {own: side for own in tasks if (side := split_task(own)[1]) is not None}
    fitting = [own for own, side in sides.items() if side in names]
    if (task is None and sides and not fitting) or (task in sides and task not in fitting):
        raise InputError(f"task={task or tasks[0]!r} is for the other side of retrieval than {names[0]!r}")
    return task if task is not None else next(iter(fitting), None)


def of_side(
    names: Sequence[str], prompts: Mapping[str, str], task: str | None, tasks: Sequence[str]
) -> str | None:
    """The first of a side's prompt names that the model has; None for a task that has no sides."""
    own = task or (tasks[0] if len(tasks) == 1 else None)
    if own in _SYMMETRIC:
        return None
    scope = split_task(task)[0] if task else next(iter(tasks), None)
    return next((name for name in names if _key(prompts, name, scope)), None)
