"""Attention: between the features of a row, and between its modalities.

Layers on tensors only; the network that joins them, the scaling of their input and the training are not here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from within_ml.errors import InputError, NotFittedError, shown


class FeatureAttention(nn.Module):
    """One attention block over the features of a row: each feature is a token, the row asks.

    ::

        token_j = x_j w_j + b_j                       q = linear(x)
        a_j = softmax_j(q · key(token_j) / √(d/heads)),  summary = out(Σ_j a_j value(token_j))

    This is the last block of an FT-Transformer, where only the [CLS] token asks, with a question that depends on the
    row: so that the weight of a feature can depend on the others. Tokens are linear in x_j, so that keys and values of
    whole batches are never formed: cost and memory are those of a linear layer.

    Parameters
    ----------
    input_dim : int
        Number of features.
    attention_heads : int
    attention_dim : int
        Length of tokens and summary; a multiple of ``attention_heads``.

    Raises
    ------
    InputError
        If a dimension does not fit.

    Notes
    -----
    Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", section 3.3.

    Examples
    --------
    >>> attention = FeatureAttention(5, attention_heads=2, attention_dim=8)
    >>> summary, weights = attention(torch.ones(3, 5))
    >>> summary.shape, weights.shape
    (torch.Size([3, 8]), torch.Size([3, 2, 5]))
    """

    def __init__(self, input_dim: int, attention_heads: int = 4, attention_dim: int = 16) -> None:
        super().__init__()
        _check_heads(attention_heads, attention_dim)
        self.attention_heads = attention_heads
        self.scale = 1 / math.sqrt(attention_dim // attention_heads)
        self.weight = nn.Parameter(torch.randn(input_dim, attention_dim) / math.sqrt(attention_dim))
        self.bias = nn.Parameter(torch.randn(input_dim, attention_dim) / math.sqrt(attention_dim))
        self.query = nn.Linear(input_dim, attention_dim)
        # No constants: the softmax would cancel that of the keys, and that of the values is the one of `out`.
        self.key, self.value = (nn.Parameter(torch.randn(attention_dim, attention_dim) * 0.2) for _ in range(2))
        self.out = nn.Linear(attention_dim, attention_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return summary, shape (n, attention_dim), and weights, shape (n, heads, input_dim), of x (n, input_dim)."""
        query = _heads(self.query(x), self.attention_heads)
        key_slope, key = self._per_feature(self.key)
        value_slope, value = self._per_feature(self.value)
        logits = x[:, None] * torch.einsum("nhe,jhe->nhj", query, key_slope) + torch.einsum("nhe,jhe->nhj", query, key)
        weights = (logits * self.scale).softmax(-1)
        mixed = torch.einsum("nhj,jhe->nhe", weights * x[:, None], value_slope)
        mixed = mixed + torch.einsum("nhj,jhe->nhe", weights, value)
        return self.out(mixed.flatten(1)), weights

    def _per_feature(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and constant in x_j of what a matrix makes of token j, each (input_dim, heads, size)."""
        return _heads(self.weight @ matrix, self.attention_heads), _heads(self.bias @ matrix, self.attention_heads)


class CrossModalAttention(nn.Module):
    """Fuses modalities, each a vector per row, into one vector by attention among them; missing ones are masked.

    ::

        t_m = encoder_m(x_m) + e_m                                  one token per modality
        a_mk = softmax_k(query(t_m) · key(t_k) / √d + ln w_k)       over the k ≠ m that are there; w: learnable weights
        u_m = t_m + out(Σ_k a_mk value(t_k)) + left(t_m) ⊙ Σ_k a_mk right(t_k)
        fused = Σ_m w_m u_m                                         over the m that are there, Σ w_m = 1

    A softmax can only choose among the others; the product ⊙ lets one modality change the meaning of another. A
    modality does not look at itself: its own token is there anyway.

    Parameters
    ----------
    modality_dims : mapping of str to int
        Name of the modality → length of its vector.
    attention_heads : int
    attention_dim : int
        Length of the tokens and of the result; a multiple of ``attention_heads``.
    dropout : float
        On the attention weights.

    Raises
    ------
    InputError
        If a dimension does not fit.

    Notes
    -----
    Vaswani et al. 2017, "Attention Is All You Need", for the heads; Kim et al. 2017, "Hadamard Product for Low-rank
    Bilinear Pooling", for the products. A row of a modality that holds any NaN counts as missing, as does a modality
    that is not handed over at all; a row without any modality gives a learned vector.

    Examples
    --------
    >>> fuse = CrossModalAttention({"text": 3, "image": 2}, attention_heads=2, attention_dim=8).eval()
    >>> text, image = torch.ones(2, 3), torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]])
    >>> fuse({"text": text, "image": image}).shape
    torch.Size([2, 8])
    >>> fuse.get_attention_weights()[:, 0, 0].tolist()  # text looks at the image, where there is one
    [[0.0, 1.0], [0.0, 0.0]]
    """

    def __init__(
        self, modality_dims: Mapping[str, int], attention_heads: int = 4, attention_dim: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not modality_dims or min(modality_dims.values()) < 1:
            raise InputError(f"modality_dims must name at least one length of 1 or more, however: {modality_dims}.")
        _check_heads(attention_heads, attention_dim)
        self.modality_dims = dict(modality_dims)
        self.attention_heads, self.attention_dim, self.dropout = attention_heads, attention_dim, dropout
        count = len(self.modality_dims)
        self.encoders = nn.ModuleDict(
            {f"m{i}": ModalityEncoder(size, attention_dim) for i, size in enumerate(self.modality_dims.values())}
        )
        self.kinds = nn.Parameter(torch.randn(count, attention_dim) * 0.1)
        self.log_weights = nn.Parameter(torch.zeros(count))
        self.nothing = nn.Parameter(torch.zeros(attention_dim))
        self.query, self.key, self.value, self.out, self.left, self.right = (
            nn.Linear(attention_dim, attention_dim) for _ in range(6)
        )
        self._attention: Tensor | None = None

    @property
    def modality_weights(self) -> dict[str, float]:
        """The learned weights w, summing to 1."""
        return dict(zip(self.modality_dims, self.log_weights.softmax(0).tolist(), strict=True))

    def encode_modality(self, name: str, x: Tensor) -> Tensor:
        """Return the tokens of one modality, shape (n, attention_dim).

        Raises
        ------
        InputError
            If the name is unknown or ``x`` is not of shape (n, modality_dims[name]).
        """
        if name not in self.modality_dims:
            raise InputError(f"A modality must be one of {shown(self.modality_dims)}, however: {name!r}.")
        if x.ndim != 2 or x.shape[1] != self.modality_dims[name]:
            raise InputError(
                f"Modality {name!r} must have shape (n, {self.modality_dims[name]}), however: {tuple(x.shape)}."
            )
        i = list(self.modality_dims).index(name)
        tokens: Tensor = self.encoders[f"m{i}"](x) + self.kinds[i]
        return tokens

    def forward(self, modalities: Mapping[str, Tensor]) -> Tensor:
        """Return the fused vectors, shape (n, attention_dim).

        Parameters
        ----------
        modalities : mapping of str to Tensor, shape (n, modality_dims[name])
            At least one, so that n is known.
        """
        if unknown := [name for name in modalities if name not in self.modality_dims]:
            raise InputError(f"modalities must be among {shown(self.modality_dims)}, however: {shown(unknown)}.")
        if len({len(x) for x in modalities.values()}) != 1:
            raise InputError(
                "modalities must hold at least one, all of as many rows, however: rows "
                f"{shown(map(len, modalities.values()))}."
            )
        some = next(iter(modalities.values()))
        n, count, d, heads = len(some), len(self.modality_dims), self.attention_dim, self.attention_heads
        tokens, present = [], []
        for name in self.modality_dims:
            if name not in modalities:
                tokens.append(some.new_zeros(n, d))
                present.append(torch.zeros(n, dtype=torch.bool, device=some.device))
                continue
            x = modalities[name]
            there = ~torch.isnan(x).any(1)
            tokens.append(self.encode_modality(name, torch.where(there[:, None], x, 0.0)) * there[:, None])
            present.append(there)
        t, there = torch.stack(tokens, 1), torch.stack(present, 1)
        logits = torch.einsum("nmhe,nkhe->nhmk", _heads(self.query(t), heads), _heads(self.key(t), heads))
        others = there[:, None] & ~torch.eye(count, dtype=torch.bool, device=t.device)
        weights = _masked_softmax(logits / math.sqrt(d // heads) + self.log_weights, others[:, None])
        self._attention = weights.detach()
        dropped = functional.dropout(weights, self.dropout, self.training)
        mixed = torch.einsum("nhmk,nkhe->nmhe", dropped, _heads(self.value(t), heads))
        products = _heads(self.left(t), heads) * torch.einsum("nhmk,nkhe->nmhe", dropped, _heads(self.right(t), heads))
        each = t + self.out(mixed.reshape(n, count, d)) + products.reshape(n, count, d)
        share = _masked_softmax(self.log_weights.expand(n, count), there)
        fused = torch.einsum("nm,nmd->nd", share.to(each.dtype), each)
        return torch.where(there.any(1)[:, None], fused, self.nothing.to(fused.dtype))

    def get_attention_weights(self) -> Tensor:
        """Return the attention of the last `forward`, shape (n, heads, modalities, modalities): who looks at whom.

        Raises
        ------
        NotFittedError
            If nothing went through the layer yet.
        """
        if self._attention is None:
            raise NotFittedError("CrossModalAttention has no attention weights before its first forward.")
        return self._attention


class ModalityEncoder(nn.Module):
    """Makes the token of a modality: a linear map plus a small network.

    The linear part lets products of tokens be bilinear forms of what came in; without it they are hard to learn.

    >>> ModalityEncoder(3, 8)(torch.ones(4, 3)).shape
    torch.Size([4, 8])
    """

    def __init__(self, size: int, attention_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, attention_dim)
        self.network = nn.Sequential(nn.Linear(size, attention_dim), nn.GELU(), nn.Linear(attention_dim, attention_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (n, attention_dim)."""
        token: Tensor = self.linear(x) + self.network(x)
        return token


def _check_heads(attention_heads: int, attention_dim: int) -> None:
    if attention_heads < 1 or attention_dim < 1 or attention_dim % attention_heads:
        raise InputError(
            f"attention_dim must be a multiple of attention_heads, however: {attention_dim}, {attention_heads}."
        )


def _heads(x: Tensor, attention_heads: int) -> Tensor:
    return x.reshape(*x.shape[:-1], attention_heads, -1)


def _masked_softmax(logits: Tensor, there: Tensor) -> Tensor:
    """Softmax over those that are there; all zero where none is."""
    masked = logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(-1)
    return masked * there
