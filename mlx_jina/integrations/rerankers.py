"""rerankers (answerdotai/rerankers): `MLXJinaRanker("jina-reranker-v3")` has the methods of its `Reranker`."""

from __future__ import annotations

from rerankers.documents import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result
from rerankers.utils import prep_docs

from mlx_jina.integrations import open_reranker


class MLXJinaRanker(BaseRanker):
    """Ranks documents by any model that `load_reranker` takes; `instruction` as in `Reranker.score`."""

    def __init__(self, model_name_or_path: str, verbose: int = 0, *, instruction: str | None = None) -> None:
        self.model = open_reranker(model_name_or_path)
        self._instruction = instruction

    def score(self, query: str, doc: str) -> float:
        """The score of one document."""
        return float(self.model.score(query, [doc], instruction=self._instruction)[0])

    def rank(
        self,
        query: str,
        docs: str | list[str] | Document | list[Document],
        doc_ids: list[str] | list[int] | None = None,
        metadata: list[dict[str, object]] | None = None,
    ) -> RankedResults:
        """All documents, best first; ids and metadata come back with them."""
        documents = prep_docs(docs, doc_ids, metadata) if docs else []
        ranked = self.model.rank(query, [document.text for document in documents], instruction=self._instruction)
        results = [
            Result(document=documents[hit["corpus_id"]], score=hit["score"], rank=rank)
            for rank, hit in enumerate(ranked, 1)
        ]
        return RankedResults(results=results, query=query, has_scores=True)
