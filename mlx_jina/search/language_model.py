"""A small instruction model that rewords questions, through mlx-lm, which is imported for it only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlx_jina.cpu import blas
from mlx_jina.engine.thread import ModelThread
from mlx_jina.errors import CheckpointError, ModelNotFoundError, shown
from mlx_jina.search.expansion import Expansion
from mlx_jina.weights import hub

MAX_TOKENS = 200
SEED = 0
# As Qwen3's card recommends without thinking.
_TEMPERATURE, _TOP_P = 0.7, 0.8

_SYSTEM = """You help to search a person's notes. Reply with exactly three lines in the language of the question, \
and nothing else:
reword: the question in other words
reword: keywords and synonyms that a note about it may have
answer: one or two sentences that a note which answers the question might say"""
_LINE = re.compile(r"^[\W\d_]*(reword|answer)[\s\d*_]*:[\s*_]*(.+)$", re.IGNORECASE | re.MULTILINE)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


class LanguageModel:
    """An `Expander`: any model that mlx-lm runs, from the Hugging Face cache or a folder. Nothing is downloaded.

    The same question always gets the same words. Raises ModelNotFoundError and CheckpointError.
    """

    def __init__(self, name: str | Path, *, max_tokens: int = MAX_TOKENS, seed: int = SEED) -> None:
        self._name = str(name)
        self._max_tokens = max_tokens
        self._seed = seed
        # A model that is loaded later needs it, and mlx-lm imports MLX.
        blas.open_fast()
        if "/" not in str(name) and not Path(name).expanduser().exists():
            # Short names are those of models that embed or rerank.
            raise ModelNotFoundError(
                f"{shown(str(name))} is neither a folder nor a Hugging Face id (owner/name) of a language model, "
                "such as mlx-community/Qwen3-0.6B-4bit"
            )
        path = hub.resolve(str(name), local_files_only=True)
        self._thread = ModelThread()
        self._model, self._tokenizer = self._thread.run(self._load, path)

    def expand(self, query: str, /) -> Expansion:
        """What the model makes of a question; nothing if it makes no sense."""
        return parse(self.generate(query))

    def generate(self, query: str) -> str:
        """What the model says, word for word."""
        return self._thread.run(self._generate, query)

    def _load(self, path: Path) -> tuple[Any, Any]:
        import mlx_lm

        try:
            model, tokenizer, *_ = mlx_lm.load(str(path))
        # mlx-lm raises whatever its libraries do for folders that it cannot read.
        except Exception as error:
            words = f"{self._name}: mlx-lm cannot load it ({type(error).__name__}: {str(error)[:200]})"
            raise CheckpointError(words) from None
        return model, tokenizer

    def _generate(self, query: str) -> str:
        import mlx.core as mx
        from mlx_lm import generate
        from mlx_lm.sample_utils import make_sampler

        mx.random.seed(self._seed)
        sampler = make_sampler(temp=_TEMPERATURE, top_p=_TOP_P)
        prompt = self._prompt(query)
        return str(generate(self._model, self._tokenizer, prompt, max_tokens=self._max_tokens, sampler=sampler))

    def _prompt(self, query: str) -> Any:
        if getattr(self._tokenizer, "chat_template", None) is None:
            return f"{_SYSTEM}\n\nquestion: {query}\nreword:"
        messages = [{"role": "user", "content": f"{_SYSTEM}\n\nquestion: {query}"}]
        # Qwen3 would think for longer than a person waits; others ignore the word.
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)


def parse(said: str) -> Expansion:
    """The lines that were asked for, from whatever a model says."""
    rewordings, answer = [], ""
    for kind, text in _LINE.findall(_THOUGHT.sub("", said)):
        if kind.lower() == "reword":
            rewordings.append(text.strip(" *_\"'"))
        else:
            answer = answer or text.strip(" *_\"'")
    return Expansion(tuple(rewordings), answer)
