"""What does each type cost to make, and what is lost? Conversions one after the other, as a Markdown table.

    python -m bench.convert [SOURCE] [--types Q8_0 Q4_K_M ...] [--bits 8 4] [--no-cosine]

SOURCE is a model's name, a folder or a .gguf; without it, random bfloat16 weights of the shape of
jina-embeddings-v5-text-small, with a vocabulary as large as Qwen's, made in a temporary folder. Each
conversion runs in a process of its own, whose peak resident memory is shown. The cosine is the lowest and the
mean over the texts of `mlx-jina convert compare`, against SOURCE, both computed in float32.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mlx_jina import device

device.use_fast_blas()
import mlx.core as mx  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402

from mlx_jina import compare  # noqa: E402
from mlx_jina.weights import convert, gguf_tokenizer, safetensors_file  # noqa: E402
from mlx_jina.weights.gguf_file import GGUF  # noqa: E402

LAYERS, HIDDEN, FFN, Q, KV, HEAD, ROWS = 28, 1024, 3072, 2048, 1024, 128, 151_936
TOKENS = 151_643
DEFAULT_TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")


def vocabulary(tokens: int = TOKENS) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges as many and about as long as Qwen's, of random pairs."""
    rng = random.Random(0)
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: i for i, name in enumerate(names)}
    merges: list[tuple[str, str]] = []
    while len(names) < tokens:
        left, right = rng.choice(names), rng.choice(names)
        name = left + right
        if len(name) <= 14 and name not in vocab:
            vocab[name] = len(names)
            names.append(name)
            merges.append((left, right))
    return vocab, merges


def tokenizer() -> Tokenizer:
    """Qwen's, but for what the tokens are."""
    fast = Tokenizer(models.BPE(*vocabulary()))
    fast.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(gguf_tokenizer.QWEN_SPLIT), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return fast


def _config() -> dict[str, object]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3Model"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": Q // HEAD,
        "num_key_value_heads": KV // HEAD,
        "head_dim": HEAD,
        "intermediate_size": FFN,
        "vocab_size": ROWS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 3.5e6,
        "rope_scaling": None,
        "attention_bias": False,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }


def random_model(folder: Path) -> Path:
    """Write the model of the default SOURCE, tensor by tensor."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (ROWS, HIDDEN), "norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        own = f"layers.{i}"
        shapes |= {f"{own}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{own}.self_attn.{norm}.weight": (HEAD,) for norm in ("q_norm", "k_norm")}
        for name, shape in {
            "self_attn.q_proj": (Q, HIDDEN),
            "self_attn.k_proj": (KV, HIDDEN),
            "self_attn.v_proj": (KV, HIDDEN),
            "self_attn.o_proj": (HIDDEN, Q),
            "mlp.gate_proj": (FFN, HIDDEN),
            "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN),
        }.items():
            shapes[f"{own}.{name}.weight"] = shape

    def make(name: str, shape: tuple[int, ...]) -> dict[str, mx.array]:
        if len(shape) == 1:
            return {name: mx.random.normal(shape, mx.bfloat16, loc=1, scale=0.1)}
        return {name: mx.random.normal(shape, mx.bfloat16, scale=shape[-1] ** -0.5)}

    outputs = [
        safetensors_file.Output({name: (shape, mx.bfloat16)}, partial(make, name, shape))
        for name, shape in shapes.items()
    ]
    folder.mkdir()
    safetensors_file.write(folder / "model.safetensors", outputs)
    (folder / "config.json").write_text(json.dumps(_config()), encoding="utf-8")
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def peak(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and peak resident memory in bytes; of this process, so it is run in a fresh one."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    if sys.platform == "darwin":
        return seconds, float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # Linux's ru_maxrss starts from the parent's.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return seconds, 1024.0 * int(status.split("VmHWM:")[1].split()[0])


def in_process(source: str, target: Path, kind: str) -> tuple[float, float]:
    """Convert in a fresh process: seconds, and its peak resident memory."""
    command = [sys.executable, "-m", "bench.convert", source, "--child", str(target), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, memory


def _convert(source: str, target: Path, kind: str) -> None:
    if kind.startswith("MLX"):
        bits = None if kind == "MLX" else int(kind.removeprefix("MLX "))
        convert.to_mlx(source, target, bits=bits, show_progress=False)
    else:
        convert.to_gguf(source, target, kind=kind, show_progress=False)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _table(source: str, kinds: list[str], folder: Path, cosine: bool) -> None:
    print("| type | MB | seconds | peak RSS, MB | open, s | cosine min | mean |")
    print("|---|---|---|---|---|---|---|")
    for kind in kinds:
        target = folder / ("mlx" if kind.startswith("MLX") else "m.gguf")
        seconds, memory = in_process(source, target, kind)
        start = time.perf_counter()
        opened = "-" if target.is_dir() else f"{(GGUF(target), time.perf_counter() - start)[1]:.2f}"
        found = compare.compare(source, str(target)) if cosine else None
        numbers = f"{found.min:.5f} | {found.mean:.5f}" if found else "- | -"
        print(
            f"| {kind} | {_size(target) / 1e6:.1f} | {seconds:.1f} | {memory / 1e6:.0f} | {opened} | {numbers} |"
        )
        sys.stdout.flush()
        for path in sorted(target.iterdir()) if target.is_dir() else [target]:
            path.unlink()
        if target.is_dir():
            target.rmdir()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.convert")
    parser.add_argument("source", nargs="?")
    parser.add_argument("--types", nargs="*", default=list(DEFAULT_TYPES))
    parser.add_argument("--bits", nargs="*", default=["8", "6", "4"])
    parser.add_argument("--no-cosine", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("TARGET", "TYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        target, kind = options.child
        print(json.dumps(peak(lambda: _convert(options.source, Path(target), kind))))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = options.source or str(random_model(Path(folder) / "random"))
        kinds = [*options.types, *(f"MLX {bits}" for bits in options.bits)]
        _table(source, kinds, Path(folder), not options.no_cosine)


if __name__ == "__main__":
    main()
