"""The prefix of each text, by task and by side of retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mlx_jina.errors import InputError, some

Side = Literal["query", "document"]
QUERY: Side = "query"
# What models call the two sides of retrieval.
SIDES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage")}
SIDE_OF: dict[str, Side] = {name: side for side, names in SIDES.items() for name in names}
_SYNONYMS = {"document": "passage", "passage": "document"}
# Tasks that give queries and documents the same prompt, the default one.
_SYMMETRIC = ("text-matching", "clustering", "classification", "separation")


def tasks_with_prompts(prompts: Mapping[str, str]) -> tuple[str, ...]:
    """Tasks with a prompt for queries of their own, which sentence-transformers' files call TASK_query."""
    return tuple(name.removesuffix(f"_{QUERY}") for name in prompts if name.endswith(f"_{QUERY}"))


def of_task(prompts: Mapping[str, str], task: str, tasks: Sequence[str]) -> dict[str, str]:
    """The prompts without those of other `tasks` than one."""
    others = tuple(f"{name}_" for name in tasks if name != task)
    return {name: text for name, text in prompts.items() if not name.startswith(others)}


def split_task(task: str) -> tuple[str, str | None]:
    """Task and side of a name of Jina's API: "retrieval.query" is `retrieval` with the prompt `query`."""
    name, _, side = task.rpartition(".")
    return (name, side) if name and side in SIDE_OF else (task, None)


def choose_task(
    task: str | None, prompt_name: str | None, tasks: Sequence[str], required: bool = False
) -> tuple[str | None, str | None]:
    """The task, one of `tasks`, and the name of the prompt, which the task's name may imply. Raises InputError."""
    known = some(tasks) or "none: this model has one vector space for every task"
    if task is None:
        if required:
            raise InputError(f"this model needs a task, here or when it is loaded; task= is one of {known}")
        return None, prompt_name
    name, side = (task, None) if task in tasks else split_task(task)
    if name not in tasks or (side is not None and name in _SYMMETRIC):
        raise InputError(f"task={task!r} is unknown to this model (known: {known})")
    if side is not None and prompt_name not in (None, side, _SYNONYMS.get(side)):
        raise _contradiction(task, prompt_name)
    return name, prompt_name or side


def _contradiction(task: str | None, prompt_name: str | None) -> InputError:
    return InputError(f"task={task!r} and prompt_name={prompt_name!r} contradict each other; give one of them")


@dataclass(frozen=True)
class Prompts:
    """A model's prompts by name, and its tasks, which choose among them."""

    by_name: dict[str, str] = field(default_factory=dict)
    default_name: str | None = None
    """The name of the prompt that a text gets when the caller names none."""
    tasks: tuple[str, ...] = ()
    """Tasks that a caller can name."""
    task_required: bool = False
    """Whether a caller must name a task, because the model has weights for each task and none besides."""

    def choose_task(self, task: str | None, prompt_name: str | None = None) -> tuple[str | None, str | None]:
        """The task that is meant, and the name of the prompt. Raises InputError.

        A model with one vector space takes the two sides of retrieval as well, since clients name them to every
        model: they choose its prompts, if it has any.
        """
        name, side = split_task(task) if task is not None else (None, None)
        if self.tasks or task is None or name != "retrieval" or side is None:
            return choose_task(task, prompt_name, self.tasks, self.task_required)
        if prompt_name not in (None, side, _SYNONYMS.get(side)):
            raise _contradiction(task, prompt_name)
        return None, prompt_name or (side if self._key(side, None) else None)

    def prefix(self, task: str | None, prompt_name: str | None, prompt: str | None) -> str:
        """The prefix of every text: `prompt` itself, else the prompt called `prompt_name`, else the default one.

        Where each task has prompts of its own, `prompt_name` means a prompt of `task`, or of the first task. A
        prompt that is named after a task is that task's default. `task` comes from `choose_task`. Raises
        InputError.
        """
        if prompt is not None:
            return prompt
        sole = self._sole(task)
        name = prompt_name if prompt_name is not None else sole if sole in self.by_name else self.default_name
        if name is None:
            return ""
        key = self._key(name, task or next(iter(self.tasks), None))
        if key is None:
            known = some(self.by_name) or "none: this model was trained without prompts"
            raise InputError(f"prompt_name={name!r} is unknown to this model (known: {known})")
        another = key != sole and (sole in self.by_name or key in self.tasks)
        if another or (f"{task}_{QUERY}" in self.by_name and not key.startswith(f"{task}_")):
            raise _contradiction(task, prompt_name)
        return self.by_name[key]

    def task_of(self, side: Side, task: str | None) -> str | None:
        """`task`, or for None the task of this side, if the model has one for each side ("retrieval.query")."""
        sides = {own: SIDE_OF[word] for own in self.tasks if (word := split_task(own)[1]) is not None}
        fitting = [own for own in sides if sides[own] == side]
        if (task is None and sides and not fitting) or (task in sides and task not in fitting):
            raise InputError(f"task={task or self.tasks[0]!r} is for the other side of retrieval than {side!r}")
        return task if task is not None else next(iter(fitting), None)

    def name_of(self, side: Side, task: str | None) -> str | None:
        """The name of a side's prompt for `task`; None if the model has none, or if the task has no sides."""
        if self._sole(task) in _SYMMETRIC:
            return None
        scope = split_task(task)[0] if task else next(iter(self.tasks), None)
        return next((name for name in SIDES[side] if self._key(name, scope)), None)

    def _sole(self, task: str | None) -> str | None:
        """The task, or for None the model's only task."""
        return task or (self.tasks[0] if len(self.tasks) == 1 else None)

    def _key(self, name: str, task: str | None) -> str | None:
        """The model's own key of a prompt: some models have a prompt for queries and documents of each task."""
        names = (name, _SYNONYMS.get(name, name))
        return next((key for own in names for key in (f"{task}_{own}", own) if key in self.by_name), None)
