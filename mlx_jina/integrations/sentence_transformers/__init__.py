"""sentence-transformers: the class of version 6, computed here. One import changes, and the code goes on.

    from mlx_jina.integrations.sentence_transformers import SentenceTransformer

    model = SentenceTransformer("jinaai/jina-embeddings-v3", trust_remote_code=True, device="mps")
    vectors = model.encode(["How do I bake bread?"], task="separation", batch_size=64)

Needs neither sentence-transformers nor torch. What would be a torch.Tensor is one, on the CPU, where torch is
installed, and a NumPy array where it is not. The defaults are sentence-transformers', not those of Jina's API:

- Vectors have unit length only if the model's own modules see to it, or with `normalize_embeddings=True`.
- Any `truncate_dim` is taken, and what is left is not normalised again.
- 8-bit vectors are calibrated by the other vectors of the same call.

Every option does what it does there, or is checked and refused with an InputError (a ValueError) that says why.
`model.encoder` is the `mlx_jina.Encoder` behind it all.
"""

from mlx_jina.integrations.sentence_transformers.model import SentenceTransformer

__all__ = ["SentenceTransformer"]
