"""sentence-transformers: the class of version 6, computed here. One import changes, and the code goes on.

    from mlx_jina.integrations.sentence_transformers import SentenceTransformer

    model = SentenceTransformer("jinaai/jina-embeddings-v3", trust_remote_code=True, device="mps")
    vectors = model.encode(["How do I bake bread?"], task="separation", batch_size=64)

Needs neither sentence-transformers nor torch. Where torch is installed, tensors are torch.Tensors on the CPU;
elsewhere NumPy arrays take their place. The defaults are sentence-transformers', not those of Jina's API:

- Vectors have unit length only if the model's own modules normalise, or with `normalize_embeddings=True`.
- Any `truncate_dim` is allowed, and cut vectors are not normalised again.
- 8-bit vectors are calibrated by the other vectors of the same call.

Every option does what it does there, or is checked and refused with an InputError (a ValueError) that says why.
`model.encoder` is the `mlx_jina.Encoder` that computes.
"""

from mlx_jina.integrations.sentence_transformers.model import SentenceTransformer

__all__ = ["SentenceTransformer"]
