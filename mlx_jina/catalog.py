"""The models mlx-jina knows by name: frozen rows, no logic beyond looking one up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Kind = Literal["embedding", "multi-vector", "reranker"]
"""What a model gives: one vector for a text, or one for each token, or a score for a pair."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Entry:
    """One published model.

    `repo` is its Hugging Face id; `parameters` are the numbers in its weights and adapters; `architecture` is the
    name that models/ gives it; `truncate_dims` are the Matryoshka sizes it was trained for. With several `tasks`
    it comes with an adapter or with prompts for each; with one, that is merged into its weights. `prompts` stand
    in where the checkpoint brings none. `default_task` is what Jina's hosted API takes when none is named; v3 has
    none, and answers from its base weights there too.
    """

    repo: str
    aliases: tuple[str, ...]
    dimension: int
    max_length: int
    license: str
    languages: str
    parameters: int
    architecture: str
    truncate_dims: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    # Whether the model also answers without a task, from its base weights, as published.
    untasked: bool = False
    default_task: str | None = None
    kind: Kind = "embedding"
    # What else the model gives.
    also: tuple[Kind, ...] = ()
    # Whether only prompts tell the tasks apart, and one set of weights answers for all of them.
    tasks_by_prompt: bool = False
    # Of weights that are replaced under the same name: vectors of two versions do not compare.
    version: int | None = None
    # How much its cosines count in a search that mixes them with words, unless an index says otherwise.
    meaning_weight: float = 0.5

    @property
    def title(self) -> str:
        """The model's name for people, with its version if it has any."""
        return self.repo if self.version is None else f"{self.repo} v{self.version}"

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return "-nc-" in self.license.lower()

    @property
    def sees(self) -> bool:
        """Whether the model sees pictures, unless its files have the language model alone."""
        return self.architecture == "qwen2_5_vl" or "-v5-omni-" in self.repo

    @property
    def merged(self) -> bool:
        """Whether the model has one task, whose adapter is merged into its weights."""
        return len(self.tasks) == 1


def _v2(name: str, dimension: int, languages: str, parameters: int) -> Entry:
    return Entry(
        repo=f"jinaai/jina-embeddings-v2-{name}",
        aliases=(f"v2-{name}", f"jina-embeddings-v2-{name}"),
        dimension=dimension,
        max_length=8192,
        license="apache-2.0",
        languages=languages,
        parameters=parameters,
        architecture="jina_bert",
    )


_V3 = Entry(
    repo="jinaai/jina-embeddings-v3",
    aliases=("v3", "jina-embeddings-v3", "jinaai/jina-embeddings-v3-hf", "jina_embeddings_v3"),
    dimension=1024,
    max_length=8192,
    license="cc-by-nc-4.0",
    languages="multilingual",
    parameters=572_000_000,
    architecture="xlm_roberta",
    truncate_dims=(32, 64, 128, 256, 512, 768, 1024),
    tasks=("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"),
    prompts={
        "retrieval.query": "Represent the query for retrieving evidence documents: ",
        "retrieval.passage": "Represent the document for retrieval: ",
        "separation": "",
        "classification": "",
        "text-matching": "",
    },
    untasked=True,
)

_V5_TASKS = ("retrieval", "text-matching", "clustering", "classification")


def _v5(
    name: str,
    dimension: int,
    max_length: int,
    truncate_dims: tuple[int, ...],
    parameters: int,
    of_adapter: int,
    omni: int,
) -> tuple[Entry, ...]:
    """The repositories with all adapters and the ones with one task merged, each also in Jina's MLX copy."""
    rows = []
    for tasks in (_V5_TASKS, *((task,) for task in _V5_TASKS)):
        for ending in ("", "-mlx"):
            suffix = ("" if tasks == _V5_TASKS else f"-{tasks[0]}") + ending
            rows.append(
                Entry(
                    repo=f"jinaai/jina-embeddings-v5-text-{name}{suffix}",
                    aliases=(f"v5-{name}{suffix}", f"jina-embeddings-v5-text-{name}{suffix}"),
                    dimension=dimension,
                    max_length=max_length,
                    license="cc-by-nc-4.0",
                    languages="multilingual",
                    parameters=parameters + (len(tasks) * of_adapter if len(tasks) > 1 else 0),
                    architecture="eurobert" if name == "nano" else "qwen3",
                    truncate_dims=truncate_dims,
                    tasks=tasks,
                    prompts={"query": "Query: ", "document": "Document: "},
                    default_prompt_name="document",
                    default_task="text-matching" if len(tasks) > 1 else None,
                )
            )
    # The same text models, with towers for pictures and for sounds, of which the first is read.
    towers = omni - rows[0].parameters
    for row in list(rows):
        alias = row.aliases[0].replace("v5-", "v5-omni-")
        names = (alias, f"jina-embeddings-{alias}")
        rows.append(
            replace(row, repo=f"jinaai/jina-embeddings-{alias}", aliases=names, parameters=row.parameters + towers)
        )
    return tuple(rows)


# Of each task, because text-matching has the same prompt on both sides. Günther et al. 2025 (arXiv 2506.18902).
V4_PROMPTS = {
    "retrieval_query": "Query: ",
    "retrieval_passage": "Passage: ",
    "text-matching_query": "Query: ",
    "text-matching_passage": "Query: ",
    "code_query": "Query: ",
    "code_passage": "Passage: ",
}
V4_DEFAULT_PROMPT = "query"
V4_TASKS = ("retrieval", "text-matching", "code")


def _v4() -> tuple[Entry, ...]:
    """The repository with the adapters of all tasks, and those for vLLM and llama.cpp with one task merged."""
    rows = []
    for tasks in (V4_TASKS, *((task,) for task in V4_TASKS)):
        merged = len(tasks) == 1
        names = ["jina-embeddings-v4"]
        if merged:
            # Those for llama.cpp call text-matching "matching".
            ggufs = f"jina-embeddings-v4-text-{tasks[0].removeprefix('text-')}"
            names = [
                f"jina-embeddings-v4-vllm-{tasks[0]}",
                ggufs,
                f"{ggufs}-GGUF",
                f"jina-embeddings-v4-{tasks[0]}",
            ]
        rows.append(
            Entry(
                repo=f"jinaai/{names[0]}",
                aliases=tuple(dict.fromkeys((*(name.removeprefix("jina-embeddings-") for name in names), *names))),
                dimension=2048,
                max_length=32_768,
                # One of Jina's pages calls the licence Qwen's, the other one CC-BY-NC-4.0; both forbid commerce.
                license="qwen-research (non-commercial) or cc-by-nc-4.0",
                languages="multilingual",
                parameters=3_754_622_976 if merged else 3_934_695_552,
                architecture="qwen2_5_vl",
                truncate_dims=(128, 256, 512, 1024, 2048),
                tasks=tasks,
                prompts={key: text for key, text in V4_PROMPTS.items() if key.rpartition("_")[0] in tasks},
                default_prompt_name=V4_DEFAULT_PROMPT,
                default_task=None if merged else "text-matching",
                also=() if merged else ("multi-vector",),
            )
        )
    return tuple(rows)


# Kryvosheieva et al. 2025 (arXiv 2508.21290), table 1; the keys are those of the repositories' own files.
_CODE_PROMPTS = {
    "nl2code_query": "Find the most relevant code snippet given the following query:\n",
    "nl2code_document": "Candidate code snippet:\n",
    "qa_query": "Find the most relevant answer given the following question:\n",
    "qa_document": "Candidate answer:\n",
    "code2code_query": "Find an equivalent code snippet given the following code snippet:\n",
    "code2code_document": "Candidate code snippet:\n",
    "code2nl_query": "Find the most relevant comment given the following code snippet:\n",
    "code2nl_document": "Candidate comment:\n",
    "code2completion_query": "Find the most relevant completion given the following start of code snippet:\n",
    "code2completion_document": "Candidate completion:\n",
}


def _code(size: str, dimension: int, truncate_dims: tuple[int, ...], parameters: int) -> tuple[Entry, ...]:
    """One set of weights for all tasks, which only prompts tell apart; also in Jina's MLX copy."""
    return tuple(
        Entry(
            repo=f"jinaai/jina-code-embeddings-{size}{ending}",
            aliases=(f"code-{size}{ending}", f"jina-code-embeddings-{size}{ending}"),
            dimension=dimension,
            max_length=32_768,
            license="cc-by-nc-4.0",
            languages="English, programming languages",
            parameters=parameters,
            architecture="qwen2",
            truncate_dims=truncate_dims,
            tasks=("nl2code", "qa", "code2code", "code2nl", "code2completion"),
            prompts=_CODE_PROMPTS,
            default_prompt_name="query",
            default_task="nl2code",
            tasks_by_prompt=True,
        )
        for ending in ("", "-mlx")
    )


ENTRIES = (
    Entry(
        repo="pocket",
        aliases=("pocket-embedding",),
        dimension=256,
        max_length=8192,
        license="apache-2.0",
        languages="English",
        parameters=11_439_104,
        architecture="jina_bert",
        truncate_dims=(64, 128, 256),
        version=4,
        meaning_weight=0.4,
    ),
    _v2("small-en", 512, "English", 33_000_000),
    _v2("base-en", 768, "English", 137_000_000),
    _v2("base-de", 768, "German, English", 161_000_000),
    _v2("base-es", 768, "Spanish, English", 161_000_000),
    _v2("base-zh", 768, "Chinese, English", 161_000_000),
    _v2("base-code", 768, "English, 30 programming languages", 161_000_000),
    _V3,
    *_v4(),
    *_v5("small", 1024, 32_768, (32, 64, 128, 256, 512, 768, 1024), 596_000_000, 20_200_000, 1_740_000_000),
    *_v5("nano", 768, 8192, (32, 64, 128, 256, 512, 768), 212_000_000, 6_700_000, 1_040_000_000),
    *_code("0.5b", 896, (64, 128, 256, 512, 896), 494_000_000),
    *_code("1.5b", 1536, (128, 256, 512, 1024, 1536), 1_544_000_000),
)

MULTI_VECTOR = (
    Entry(
        repo="jinaai/jina-colbert-v2",
        aliases=("colbert-v2", "jina-colbert-v2"),
        dimension=128,
        max_length=8192,
        license="cc-by-nc-4.0",
        languages="multilingual",
        parameters=559_000_000,
        architecture="colbert",
        truncate_dims=(64, 96, 128),
        kind="multi-vector",
    ),
    Entry(
        repo="jinaai/jina-colbert-v1-en",
        aliases=("colbert-v1-en", "jina-colbert-v1-en"),
        dimension=128,
        max_length=8192,
        license="apache-2.0",
        languages="English",
        parameters=137_000_000,
        architecture="colbert",
        kind="multi-vector",
    ),
)
"""Models with a vector for each token."""


def _reranker(
    repo: str, architecture: str, width: int, max_length: int, license: str, languages: str, parameters: int
) -> Entry:
    return Entry(
        repo=repo,
        aliases=(repo.partition("/")[2],),
        dimension=width,
        max_length=max_length,
        license=license,
        languages=languages,
        parameters=parameters,
        architecture=f"{architecture}_reranker",
        kind="reranker",
    )


RERANKERS = (
    _reranker("jinaai/jina-reranker-v1-tiny-en", "jina_bert", 384, 8192, "apache-2.0", "English", 33_046_273),
    _reranker("jinaai/jina-reranker-v1-turbo-en", "jina_bert", 384, 8192, "apache-2.0", "English", 37_771_777),
    _reranker(
        "jinaai/jina-reranker-v2-base-multilingual",
        "xlm_roberta",
        768,
        1024,
        "cc-by-nc-4.0",
        "multilingual",
        278_437_633,
    ),
    _reranker("BAAI/bge-reranker-v2-m3", "xlm_roberta", 1024, 8192, "apache-2.0", "multilingual", 567_755_777),
    *(
        _reranker(
            f"jinaai/jina-reranker-v3{ending}",
            "qwen3_listwise",
            512,
            131_072,
            "cc-by-nc-4.0",
            "multilingual",
            596_836_352,
        )
        for ending in ("", "-mlx")
    ),
    _reranker("Qwen/Qwen3-Reranker-0.6B", "qwen3", 1024, 40_960, "apache-2.0", "multilingual", 595_776_512),
    _reranker("Qwen/Qwen3-Reranker-4B", "qwen3", 2560, 40_960, "apache-2.0", "multilingual", 4_021_784_576),
    _reranker("Qwen/Qwen3-Reranker-8B", "qwen3", 4096, 40_960, "apache-2.0", "multilingual", 8_188_548_096),
)

# Repositories of Jina's that are not loaded by their name, by the end of it, and why.
_REFUSED = {
    "jina-reranker-v3-gguf": "jina-reranker-v3-GGUF has several models: download one .gguf and "
    "projector.safetensors into one folder, and name the .gguf; or take jina-reranker-v3 or jina-reranker-v3-mlx",
    "jina-reranker-v3.5": "jina-reranker-v3.5 has layers of sliding-window attention, which mlx-jina does not run",
    "jina-reranker-m0": "jina-reranker-m0 reads images by Qwen2-VL's vision tower, which mlx-jina does not run",
}

ALL = (*ENTRIES, *MULTI_VECTOR, *RERANKERS)

_BY_NAME = {name.lower(): entry for entry in ALL for name in (entry.repo, *entry.aliases)}


def refusal(*names: str) -> str | None:
    """Why the model of the first of these names that is known not to run here does not, in any letter case."""
    ends = (name.lower().rpartition("/")[2] for name in names)
    return next((_REFUSED[end] for end in ends if end in _REFUSED), None)


def find(*names: str) -> Entry | None:
    """The row for the first of these repository ids or aliases that has one, in any letter case."""
    return next((entry for name in names if (entry := _BY_NAME.get(name.lower()))), None)


def nearest(name: str) -> str | None:
    """The known name that a misspelt one was probably meant to be, or None."""
    # Only a misspelt name needs it.
    import difflib

    found = difflib.get_close_matches(name.lower(), _BY_NAME, n=1, cutoff=0.75)
    return short_name(_BY_NAME[found[0]]) if found else None


def short_names(kind: Kind = "embedding") -> list[str]:
    """The shortest name of every known model of a kind, for messages; not those of copies and of merged tasks."""
    if kind == "embedding":
        return [short_name(entry) for entry in main_entries()]
    return [short_name(entry) for entry in ALL if kind in (entry.kind, *entry.also)]


def short_name(entry: Entry) -> str:
    """The shortest name of a model."""
    return min((entry.repo, *entry.aliases), key=len)


def main_entries() -> list[Entry]:
    """The rows that are no copies in MLX's layout and no single tasks of another row."""
    return [entry for entry in ENTRIES if not entry.merged and not entry.repo.endswith("-mlx")]
