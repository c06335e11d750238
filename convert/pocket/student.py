"""The student: BERT without positions, with symmetric ALiBi, gated GELU and mean pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

HIDDEN, HEADS, INNER, LAYERS, EPS = 256, 4, 768, 5, 1e-12


def device() -> torch.device:
    """A CUDA GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def group(**parts: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(parts)


def alibi(length: int, heads: int, dtype: torch.dtype, where: torch.device) -> Tensor:
    """(H, L, L): minus the slope times the distance."""
    at = torch.arange(length, device=where)
    distance = (at[:, None] - at[None, :]).abs()
    slopes = 2.0 ** (-8 / heads * torch.arange(1, heads + 1, device=where))
    return (-slopes[:, None, None] * distance).to(dtype)


class Pad(torch.autograd.Function):
    """Copy flat rows to their places in a table of zeros. Places are unique, so the gradient is a copy as well."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, places: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(places)
        return flat.new_zeros(rows, flat.shape[1]).index_copy_(0, places, flat)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class Unpad(torch.autograd.Function):
    """The reverse of Pad."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.rows = table.shape[0]
        return table.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None


class GatedGelu(torch.autograd.Function):
    """gelu(u[:F]) * u[F:]. The gradient of both halves is written into one array."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        left, right = u.chunk(2, dim=-1)
        gate = fn.gelu(left)
        ctx.save_for_backward(u, gate)
        return gate * right

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        u, gate = ctx.saved_tensors
        left, right = u.chunk(2, dim=-1)
        out = torch.empty_like(u)
        out_left, out_right = out.chunk(2, dim=-1)
        torch.mul(grad, gate, out=out_right)
        out_left.copy_(torch.ops.aten.gelu_backward(grad * right, left))
        return out


# apply has no annotations of its own
pad: Any = Pad.apply
unpad: Any = Unpad.apply
gated_gelu: Any = GatedGelu.apply


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer whose float32 weights are cast to the dtype of the activations."""
    return fn.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def normed(x: Tensor, layer: nn.Module) -> Tensor:
    """Layer normalisation in float32."""
    out: Tensor = layer(x.float()).to(x.dtype)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(B*H, L, d): plain products, many times faster here than the fused CPU kernel's backward pass."""
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(bias.flatten(0, 1), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v)


class Layer(nn.Module):
    """Post-norm block; linear maps see the flat row of tokens, only attention sees padded texts.

    `places` are those of the tokens in the padded table; None where the row is the table.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = group(
            self=group(**{n: nn.Linear(HIDDEN, HIDDEN) for n in ("query", "key", "value")}),
            output=group(dense=nn.Linear(HIDDEN, HIDDEN), LayerNorm=nn.LayerNorm(HIDDEN, EPS)),
        )
        self.mlp = group(
            gated_layers=nn.Linear(HIDDEN, 2 * INNER, bias=False),
            wo=nn.Linear(INNER, HIDDEN),
            layernorm=nn.LayerNorm(HIDDEN, EPS),
        )

    def forward(self, x: Tensor, places: Tensor | None, shape: tuple[int, int], bias: Tensor) -> Tensor:
        own: Any = self.attention["self"]
        out: Any = self.attention["output"]
        mlp: Any = self.mlp
        weight = torch.cat([own[n].weight for n in ("query", "key", "value")])
        offset = torch.cat([own[n].bias for n in ("query", "key", "value")])
        qkv = linear(x, weight, offset)
        if places is not None:
            qkv = pad(qkv, places, shape[0] * shape[1])
        q, k, v = qkv.view(*shape, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(q, k, v, bias).view(shape[0], HEADS, shape[1], -1)
        mixed = mixed.transpose(1, 2).reshape(shape[0] * shape[1], HIDDEN)
        if places is not None:
            mixed = unpad(mixed, places)
        x = normed(linear(mixed, out["dense"].weight, out["dense"].bias) + x, out["LayerNorm"])
        gated: Tensor = gated_gelu(linear(x, mlp["gated_layers"].weight))
        return normed(linear(gated, mlp["wo"].weight, mlp["wo"].bias) + x, mlp["layernorm"])


class Student(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embeddings = group(
            word_embeddings=nn.Embedding(vocab, HIDDEN),
            token_type_embeddings=nn.Embedding(2, HIDDEN),
            LayerNorm=nn.LayerNorm(HIDDEN, EPS),
        )
        self.encoder = group(layer=nn.ModuleList(Layer() for _ in range(LAYERS)))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(
                    module.weight, std=1 / math.sqrt(HIDDEN) if isinstance(module, nn.Linear) else 0.02
                )
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            # Residual branches start small, so the untrained student is already the mean of its word vectors.
            for linear in (layer.attention["output"]["dense"], layer.mlp["wo"]):
                nn.init.normal_(linear.weight, std=0.1 / math.sqrt(linear.in_features))

    def forward(self, ids: Tensor, lengths: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, 256) mean of each text's token states, in float32, not normalised.

        `ids` are the tokens of all texts, one after the other (T) or in a padded table (B, L). A table costs more
        arithmetic, and its shape says all that a GPU has to know.
        """
        shape = (len(lengths), ids.shape[1] if ids.ndim == 2 else int(lengths.max()))
        inside = torch.arange(shape[1], device=ids.device) < lengths[:, None]
        places = inside.flatten().nonzero().squeeze(1) if ids.ndim == 1 else None
        emb: Any = self.embeddings
        words = emb["word_embeddings"].weight.index_select(0, ids.flatten())
        x = emb["LayerNorm"](words + emb["token_type_embeddings"].weight[0]).to(dtype)
        bias = alibi(shape[1], HEADS, dtype, ids.device).masked_fill(~inside[:, None, None, :], -torch.inf)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, places, shape, bias)
        table = x.float() if places is None else pad(x.float(), places, shape[0] * shape[1])
        total: Tensor = (table.view(*shape, HIDDEN) * inside[:, :, None]).sum(1)
        return total / lengths[:, None]
