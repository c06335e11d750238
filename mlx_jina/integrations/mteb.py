"""MTEB: `python -m mlx_jina.integrations.mteb run -m v5-small -t STSBenchmark` is `mteb run` on MLX."""

from __future__ import annotations

from typing import Any

from mteb.cli import main
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ScoringFunction

import mlx_jina
from mlx_jina import catalog, process
from mlx_jina.choices import Precision
from mlx_jina.reranker import Scores
from mlx_jina.vectors import Vectors

# The task of jina-embeddings-v5 for each of MTEB's types of tasks, as in mteb's jina_models.py; others: retrieval.
TASKS = dict.fromkeys(("STS", "PairClassification", "BitextMining", "Summarization"), "text-matching")
TASKS |= dict.fromkeys(("Classification", "MultilabelClassification"), "classification")
TASKS["Clustering"] = "clustering"
UNKNOWN = ModelMeta.create_empty({"similarity_fn_name": ScoringFunction.COSINE})


class MLXJinaEncoder(AbsEncoder):
    """An encoder of MTEB 2 for any name that `load` takes; a name without an owner gets `mlx-jina/` in front."""

    def __init__(
        self, model_name: str, revision: str | None = None, *, embed_dim: int | None = None, device: Any = None
    ) -> None:
        known = None if revision == UNKNOWN.revision else revision
        self.model = mlx_jina.load(model_name.removeprefix("mlx-jina/"), revision=known)
        self.embed_dim = embed_dim
        self.mteb_model_meta = UNKNOWN.model_copy(update={"name": f"mlx-jina/{self.model.path.stem}"})

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        prompt_type: Any = None,
        precision: Precision = "float32",
        **_: Any,
    ) -> Vectors:
        """Vectors (N, D) of a loader's batches, for the task and the side that MTEB evaluates."""
        texts = [text for batch in inputs for text in batch["text"]]
        task: str | None = TASKS.get(task_metadata.type, "retrieval")
        encode = self.model.encode_query if prompt_type == "query" else self.model.encode_document
        task = task if task in self.model.tasks else None
        return encode(texts, task=task, truncate_dim=self.embed_dim, precision=precision)


class MLXJinaCrossEncoder:
    """A cross-encoder of MTEB 2 for any name that `load_reranker` takes.

    Scores are those before the logistic function, near whose ends documents become equal. A listwise model ranks
    all documents of a query together.
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: Any = None) -> None:
        known = None if revision == UNKNOWN.revision else revision
        self.model = mlx_jina.load_reranker(model_name.removeprefix("mlx-jina/"), revision=known)
        self.mteb_model_meta = UNKNOWN.model_copy(update={"name": f"mlx-jina/{self.model.path.stem}"})

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> Scores:
        """Scores (N,) of the queries of one loader's batches with the documents of the other's."""
        queries, documents = (
            [text for batch in inputs for text in batch["text"]] for inputs in (inputs1, inputs2)
        )
        return self.model.predict(list(zip(queries, documents, strict=True)), activation="none")


if __name__ == "__main__":
    process.tune()
    for entry in (*catalog.ENTRIES, *catalog.RERANKERS):
        name = entry.repo if "/" in entry.repo else f"mlx-jina/{entry.repo}"
        meta = MODEL_REGISTRY.get(name, UNKNOWN.model_copy(update={"name": name}))
        loader = MLXJinaCrossEncoder if entry.kind == "reranker" else MLXJinaEncoder
        own = meta.model_copy(update={"loader": loader, "loader_kwargs": {}})
        MODEL_REGISTRY.update(dict.fromkeys((name, entry.repo, *entry.aliases), own))
    main()
