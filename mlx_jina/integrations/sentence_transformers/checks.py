"""Check options that MLX cannot follow as torch would, and refuse those that would change nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from mlx_jina import device as devices
from mlx_jina.choices import DTYPES, Dtype
from mlx_jina.errors import InputError
from mlx_jina.integrations.sentence_transformers.tensors import Precision

if TYPE_CHECKING:
    from mlx_jina import Encoder

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Names of exact attention in torch; MLX computes the same result in its own way.
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# MLX's name of the hardware, by torch's name.
BACKENDS = {"mps": "metal", "cuda": "cuda", "cpu": "cpu"}


def refuse(reason: str, **options: object) -> None:
    """Raise InputError for an option that is not None."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} {reason}")


def nothing_else(where: str, options: Mapping[str, object]) -> None:
    """Raise InputError if options are left after all known ones were taken out."""
    if options:
        raise InputError(f"{where} has no use for {', '.join(options)} here; leave it out")


def device(name: object) -> None:
    """Raise InputError unless MLX computes on the device `name`; None stands for the right one."""
    if name is None:
        return
    if isinstance(name, list | tuple):
        raise InputError(f"device={name!r}: there is one device, and one process; give its name alone")
    kind, _, index = str(name).partition(":")
    if BACKENDS.get(kind) != devices.backend() or index not in ("", "0"):
        raise InputError(
            f"device={str(name)!r}: MLX computes on {devices.backend()!r} in this process; leave the option out "
            "(mlx.core.set_default_device chooses between GPU and CPU)"
        )


def attention(name: object) -> None:
    """Raise InputError unless `name` is an exact attention, or None for the default."""
    if name is not None and name not in ATTENTION:
        raise InputError(f"attn_implementation={name!r} is not one of {', '.join(ATTENTION)}")


def dtype(given: object) -> Dtype | None:
    """The dtype that a torch.dtype or its name stands for; None for "auto", the default."""
    name = str(given).removeprefix("torch.")
    if given is None or name == "auto":
        return None
    if name not in DTYPES:
        raise InputError(f"dtype={name!r} is not one of {', '.join(DTYPES)}, auto")
    return name


def load_options(
    model: dict[str, Any] | None, processor: dict[str, Any] | None, config: dict[str, Any] | None
) -> tuple[str | None, Dtype | None, int | None]:
    """Task, dtype and longest text from `model_kwargs` and its like. Raises InputError for any other key."""
    given = dict(model or {})
    device(None if (place := given.pop("device_map", None)) == "auto" else place)
    dtypes = [dtype(given.pop(name)) for name in ("torch_dtype", "dtype") if name in given]
    task = given.pop("default_task", None)
    attention(given.pop("attn_implementation", None))
    nothing_else("model_kwargs", given)

    given = dict(config or {})
    attention(given.pop("attn_implementation", None))
    attention(given.pop("_attn_implementation", None))
    nothing_else("config_kwargs", given)

    given = dict(processor or {})
    longest = given.pop("model_max_length", None)
    if (side := given.pop("padding_side", "right")) not in ("left", "right"):
        raise InputError(f"padding_side={side!r} is neither left nor right")
    nothing_else("processor_kwargs", given)
    return task, dtypes[-1] if dtypes else None, longest


def call(
    batch_size: int, output_value: str | None, precision: str, place: object, pool: object, chunk_size: object
) -> None:
    """Raise InputError for an option of `encode` that has no meaning here."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} must be a positive number")
    if output_value not in (None, "sentence_embedding", "token_embeddings"):
        raise InputError(f"output_value={output_value!r} is neither sentence_embedding, token_embeddings nor None")
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    if output_value is None and precision != "float32":
        raise InputError(f"output_value=None gives float32, and not precision={precision!r}")
    device(place)
    reason = "belongs to a pool of processes; start one process a machine, each with a model of its own"
    refuse(reason, pool=pool, chunk_size=chunk_size)


def normalizes(encoder: Encoder) -> bool:
    """Whether the model's own modules scale vectors to unit length: by modules.json, or as Jina publishes it."""
    published = encoder.entry is not None and bool(encoder.entry.tasks)
    file = encoder.path / "modules.json"
    if not file.is_file():
        return published
    kinds = [str(module.get("type")) for module in json.loads(file.read_text(encoding="utf-8"))]
    # A repository's own module, which is code, may do anything: v5's normalises.
    custom = any(not kind.startswith("sentence_transformers.") for kind in kinds)
    return any(kind.endswith(".Normalize") for kind in kinds) or (custom and published)
