"""A language model that mlx-lm runs, tiny and with random weights, which says nothing that makes sense."""

from __future__ import annotations

from pathlib import Path

from tests.support import checkpoints, reranker_checkpoints


def tiny(folder: Path) -> Path:
    """Qwen3's layout with a template for chats."""
    reranker_checkpoints.qwen(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    checkpoints.write_json(folder / "tokenizer_config.json", {**settings, "chat_template": template})
    return folder
