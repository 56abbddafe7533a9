"""The network of the ad score: attention over features, fusion of modalities, a trunk of fully connected layers.

Tensors in, log-odds out. Scaling of the input, missing values of features and the training stand in `network_rate`.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from within_ml.errors import InputError, shown
from within_ml.models.layers.adaptive_dropout import AdaptiveDropout
from within_ml.models.layers.attention import CrossModalAttention, FeatureAttention, ModalityEncoder
from within_ml.models.layers.quantum_noise import AnnealingSchedule, NoiseType, QuantumNoiseLayer

FEATURES = "features"
"""Name under which the features take part in the attention between modalities."""

_TIMED_RUNS = 7


@dataclass(frozen=True, slots=True)
class Quantization:
    """What `AdPredictorNN.quantize` found.

    Attributes
    ----------
    network : nn.Module
        The network to predict with: int8 where ``enabled``, otherwise a float copy.
    enabled : bool
        Whether int8 is on: it is faster and close enough.
    max_difference : float
        Largest |Δp| on the rows handed over.
    speedup : float
        Seconds of the float network over those of the int8 one, medians on these rows.
    reason : str
        The decision in words.
    """

    network: nn.Module
    enabled: bool
    max_difference: float
    speedup: float
    reason: str


class AdPredictorNN(nn.Module):
    """Log-odds of a click from the features of an ad and, where there are any, vectors of its text and image.

    ::

        [ x | FeatureAttention(x) | fused modalities ] → (Linear → BatchNorm → ReLU → noise → dropout) × k → Linear

    The last layer starts at zero: an untrained network answers the base margin, exactly.

    Parameters
    ----------
    input_dim : int
        Number of features; finite and of about unit scale.
    hidden_dims : sequence of int
        Widths of the trunk.
    dropout_rate : float
        In [0, 1).
    enable_quantum_noise : bool
        Put a `QuantumNoiseLayer` into each layer of the trunk.
    use_cross_modal : bool
        True fuses the modalities, and the features as one more, by `CrossModalAttention`; False encodes each
        modality and puts them side by side.
    modality_dims : mapping of str to int, optional
        Name of a modality → length of its vector.
    attention_heads, attention_dim : int
        Of both attentions.
    modality_dropout : float
        Share of the rows for which a modality is hidden in training, so that its absence is nothing new later.
    adaptive_dropout : bool
        `AdaptiveDropout` in place of dropout at a constant rate.
    noise_type, noise_intensity, annealing_schedule
        As in `QuantumNoiseLayer`.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Examples
    --------
    >>> network = AdPredictorNN(3, (8,), 0.1, False, True, modality_dims={"text": 4})
    >>> network.eval()(torch.ones(2, 3), {"text": torch.ones(2, 4)}, torch.tensor([-3.0, -4.0])).tolist()
    [-3.0, -4.0]
    """

    def __init__(  # noqa: PLR0913 - one argument per hyperparameter
        self,
        input_dim: int,
        hidden_dims: Sequence[int] = (64, 32),
        dropout_rate: float = 0.1,
        enable_quantum_noise: bool = False,
        use_cross_modal: bool = True,
        *,
        modality_dims: Mapping[str, int] | None = None,
        attention_heads: int = 4,
        attention_dim: int = 16,
        modality_dropout: float = 0.1,
        adaptive_dropout: bool = False,
        noise_type: NoiseType | str = NoiseType.DEPOLARIZING,
        noise_intensity: float = 0.1,
        annealing_schedule: AnnealingSchedule | str = AnnealingSchedule.COSINE,
    ) -> None:
        super().__init__()
        if input_dim < 1 or any(width < 1 for width in hidden_dims):
            raise InputError(f"input_dim and hidden_dims must be at least 1, however: {input_dim}, {hidden_dims}.")
        if not 0 <= dropout_rate < 1 or not 0 <= modality_dropout < 1:
            raise InputError(
                f"dropout_rate and modality_dropout must be in [0, 1), however: {dropout_rate}, {modality_dropout}."
            )
        self.input_dim, self.modality_dims = input_dim, dict(modality_dims or {})
        self.modality_dropout = modality_dropout
        if FEATURES in self.modality_dims:
            raise InputError(f"A modality must not be called {FEATURES!r}: that is what the features are.")
        self.features = FeatureAttention(input_dim, attention_heads, attention_dim)
        self.fusion: CrossModalAttention | ModalityConcatenation | None = None
        width = input_dim + attention_dim
        if self.modality_dims and use_cross_modal:
            sizes = {**self.modality_dims, FEATURES: input_dim}
            self.fusion = CrossModalAttention(sizes, attention_heads, attention_dim)
            width += attention_dim
        elif self.modality_dims:
            self.fusion = ModalityConcatenation(self.modality_dims, attention_dim)
            width += (attention_dim + 1) * len(self.modality_dims)
        self.trunk = nn.Sequential()
        for i, size in enumerate(hidden_dims):
            layers: dict[str, nn.Module] = {"linear": nn.Linear(width, size), "norm": nn.BatchNorm1d(size)}
            layers["relu"] = nn.ReLU()
            if enable_quantum_noise:
                layers["noise"] = QuantumNoiseLayer(size, noise_type, noise_intensity, annealing_schedule)
            ceiling = max(dropout_rate, _MAX_ADAPTIVE_RATE)
            layers["dropout"] = (
                AdaptiveDropout(dropout_rate, adaptive_range=(0.0, ceiling))
                if adaptive_dropout
                else nn.Dropout(dropout_rate)
            )
            block = nn.Sequential()
            for name, layer in layers.items():
                block.add_module(name, layer)
            self.trunk.add_module(f"block{i}", block)
            width = size
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Tensor, modalities: Mapping[str, Tensor] | None = None, base_margin: Tensor | None = None
    ) -> Tensor:
        """Return log-odds, shape (n,).

        Parameters
        ----------
        x : Tensor, shape (n, input_dim)
        modalities : mapping of str to Tensor, shape (n, modality_dims[name]), optional
            A row with NaN is missing there, and so is a modality that is not in the mapping.
        base_margin : Tensor, shape (n,), optional
            Log-odds that the network adds to; 0 where it is not given.
        """
        added: Tensor = self.head(self.feature_extraction(x, modalities)).squeeze(-1)
        return added if base_margin is None else base_margin + added

    def feature_extraction(self, x: Tensor, modalities: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return what the last layer sees, shape (n, hidden_dims[-1])."""
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise InputError(f"x must have shape (n, {self.input_dim}), however: {tuple(x.shape)}.")
        given = dict(modalities or {})
        if unknown := [name for name in given if name not in self.modality_dims]:
            raise InputError(f"modalities must be among {shown(self.modality_dims)}, however: {shown(unknown)}.")
        parts = [x, self.features(x)[0]]
        if self.fusion is not None:
            seen = {name: self._hidden_at_random(values) for name, values in given.items()}
            parts.append(self.fusion({**seen, FEATURES: x}))
        extracted: Tensor = self.trunk(torch.cat(parts, 1))
        return extracted

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return how much each feature is looked at, shape (n, heads, input_dim); a row of a head sums to 1."""
        weights: Tensor = self.features(x)[1]
        return weights

    def set_progress(self, progress: float) -> None:
        """Anneal the noise: tell how much of the training is done, from 0 to 1."""
        for module in self.modules():
            if isinstance(module, QuantumNoiseLayer):
                module.set_progress(progress)

    def update_dropout(self, gap: float) -> None:
        """Tell all adaptive dropouts the generalisation gap."""
        for module in self.modules():
            if isinstance(module, AdaptiveDropout):
                module.update_rate(gap)

    def dropout_rate(self) -> float | None:
        """Return the rate of the adaptive dropouts, None where there are none."""
        rates = [module.get_current_rate() for module in self.modules() if isinstance(module, AdaptiveDropout)]
        return rates[0] if rates else None

    def fuse_bn(self) -> AdPredictorNN:
        """Return a copy for predicting in which each batch normalisation is folded into the layer before it.

        Equal outputs up to rounding (1e-5 in float32). The copy is in evaluation mode; do not train it.
        """
        fused = copy.deepcopy(self).eval()
        for block in fused.blocks():
            if isinstance(block.norm, nn.BatchNorm1d):
                linear = cast(nn.Linear, block.linear)
                block.linear = nn.utils.fusion.fuse_linear_bn_eval(linear, block.norm)
                block.norm = nn.Identity()
        return fused

    def blocks(self) -> Iterator[nn.Module]:
        """The blocks of the trunk, from the input on."""
        yield from self.trunk.children()

    def quantize(
        self,
        x: Tensor,
        modalities: Mapping[str, Tensor] | None = None,
        base_margin: Tensor | None = None,
        *,
        tolerance: float = 0.01,
    ) -> Quantization:
        """Try int8 weights in the trunk with dynamically scaled activations, and turn them on only if that pays.

        Parameters
        ----------
        x, modalities, base_margin
            A batch as in `forward`, of the size that will be predicted: differences and seconds are measured on it.
        tolerance : float
            Largest |Δp| that is accepted.

        Notes
        -----
        Normalisations are folded first, in both networks. Whether int8 pays depends on widths, rows and processor,
        hence the measurement; what `NetworkRate` saves and predicts with is float always. torch announces the end of
        ``torch.ao.quantization`` in favour of a package of its own; the version installed here still has it, on CPUs.
        """
        reference = self.fuse_bn().float().cpu()
        quantised = _int8(reference)
        x, margin = x.float().cpu(), None if base_margin is None else base_margin.float().cpu()
        given = {name: values.float().cpu() for name, values in (modalities or {}).items()}
        with torch.inference_mode():
            apart = (reference(x, given, margin).sigmoid() - quantised(x, given, margin).sigmoid()).abs()
            seconds = _median_seconds((reference, quantised), x, given, margin)
        difference = float(apart.max()) if len(x) else 0.0
        speedup = seconds[0] / seconds[1]
        if difference >= tolerance:
            reason = f"off: |Δp| up to {difference:.2g}, allowed is less than {tolerance:g}"
        elif speedup <= 1:
            reason = f"off: {speedup:.2f} times as fast on {len(x)} rows"
        else:
            reason = f"on: {speedup:.2f} times as fast on {len(x)} rows, |Δp| up to {difference:.2g}"
        enabled = reason.startswith("on")
        return Quantization(quantised if enabled else reference, enabled, difference, speedup, reason)

    def _hidden_at_random(self, values: Tensor) -> Tensor:
        if not self.training or self.modality_dropout == 0:
            return values
        hidden = torch.rand(len(values), 1, device=values.device) < self.modality_dropout
        return torch.where(hidden, torch.nan, values)


class ModalityConcatenation(nn.Module):
    """Encoded modalities side by side, each with a flag whether it is there; zeros where it is not.

    >>> side_by_side = ModalityConcatenation({"text": 3, "image": 2}, 8)
    >>> side_by_side({"text": torch.ones(4, 3), FEATURES: torch.ones(4, 1)}).shape
    torch.Size([4, 18])
    """

    def __init__(self, modality_dims: Mapping[str, int], attention_dim: int) -> None:
        super().__init__()
        self.modality_dims, self.attention_dim = dict(modality_dims), attention_dim
        self.encoders = nn.ModuleDict(
            {f"m{i}": ModalityEncoder(size, attention_dim) for i, size in enumerate(modality_dims.values())}
        )

    def forward(self, modalities: Mapping[str, Tensor]) -> Tensor:
        """Return shape (n, modalities · (attention_dim + 1)); names that are no modality only tell n."""
        some = next(iter(modalities.values()))
        parts = []
        for i, name in enumerate(self.modality_dims):
            if name not in modalities:
                parts.append(some.new_zeros(len(some), self.attention_dim + 1))
                continue
            x = modalities[name]
            there = ~torch.isnan(x).any(1, keepdim=True)
            parts.append(self.encoders[f"m{i}"](torch.where(there, x, 0.0)) * there)
            parts.append(there.to(x.dtype))
        return torch.cat(parts, 1)


_MAX_ADAPTIVE_RATE = 0.6


def _int8(network: AdPredictorNN) -> nn.Module:
    """Copy with int8 weights per output in the trunk, where the time goes; attention and head stay float."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    names = {f"trunk.{name}.linear": per_channel_dynamic_qconfig for name, _ in network.trunk.named_children()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes of deprecation; the version is pinned
        quantised: nn.Module = quantize_dynamic(network, names)  # type: ignore[no-untyped-call]
    return quantised


def _median_seconds(
    networks: Sequence[nn.Module], x: Tensor, modalities: Mapping[str, Tensor], margin: Tensor | None
) -> list[float]:
    """Seconds of each network on the rows; in turns, so that a busy moment of the machine meets all of them."""
    seconds: list[list[float]] = [[] for _ in networks]
    for _ in range(_TIMED_RUNS):
        for network, mine in zip(networks, seconds, strict=True):
            start = time.perf_counter()
            network(x, modalities, margin)
            mine.append(time.perf_counter() - start)
    return [sorted(mine)[_TIMED_RUNS // 2] for mine in seconds]
