"""Reading hyper-parameters: nothing that shapes a vector has a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from mlx_jina.errors import CheckpointError, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", int, float, str)
C = TypeVar("C", bound="DataclassInstance")


def required(config: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """`config[key]`, or an error that names the key."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise CheckpointError(f"config.json: {key!r} should be {kind.__name__}, found {shown(value)}")
    if not isinstance(value, str) and value <= 0:
        raise CheckpointError(f"config.json: {key!r} should be positive, found {shown(value)}")
    return kind(value)


def names(config: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """A list of names, or None where config.json has none; a str is no list, though it can be iterated over."""
    value = config.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"config.json: {key!r} should be a list of names, found {shown(value)}")
    return tuple(value)


def expect(config: Mapping[str, Any], key: str, allowed: tuple[Any, ...]) -> None:
    """Refuse a setting that this implementation would compute differently."""
    if config.get(key) not in allowed:
        wanted = " or ".join(map(repr, allowed))
        raise CheckpointError(f"config.json: {key!r} is {shown(config.get(key))}; only {wanted} is implemented")


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the rotary angles, from the key of transformers 4 or from that of transformers 5."""
    block = config.get("rope_parameters")
    if block is None:
        return required(config, "rope_theta", float)
    expect(block, "rope_type", ("default", None))
    theta = required(block, "rope_theta", float)
    if config.get("rope_theta", theta) != theta:
        raise CheckpointError(
            f"config.json: 'rope_theta' is {config['rope_theta']!r} beside {theta!r} in 'rope_parameters'"
        )
    return theta


def read(cls: type[C], config: Mapping[str, Any], **derived: Any) -> C:
    """A dataclass of hyper-parameters: each field is a key of config.json by its name, or given as `derived`."""
    kinds = get_type_hints(cls)
    names = [field.name for field in fields(cls) if field.name not in derived]
    return cls(**{name: required(config, name, kinds[name]) for name in names}, **derived)


def with_head_dim(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the width of a head: heads share the model's width where none is named for them."""
    width = required(config, "hidden_size", int) // required(config, "num_attention_heads", int)
    return {**config, "head_dim": config.get("head_dim") or width}
