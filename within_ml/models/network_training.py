"""Training of a network for rates: mini-batches, early stopping out of time, the training curve.

Tensors only; what columns mean, how they are scaled and how a network is saved stands in `network_rate`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from within_ml.models.ad_nn import AdPredictorNN
from within_ml.models.layers.adaptive_dropout import generalisation_gap

_CURVE_ROWS = 8192
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One point of the training curve.

    Attributes
    ----------
    epoch : int
        0 is before training.
    train : float
        Log-loss per impression in evaluation mode, on at most 8,192 of the training rows.
    validation : float or None
        The same on the validation rows; None where there are none.
    dropout_rate : float or None
        Of the next epoch, where the rate is adaptive.
    """

    epoch: int
    train: float
    validation: float | None
    dropout_rate: float | None


class Rows(NamedTuple):
    """Rows as float32 tensors: features (n, d), modalities (n, size) with NaN where missing, the others (n,)."""

    x: Tensor
    modalities: dict[str, Tensor]
    margin: Tensor
    y: Tensor
    weight: Tensor

    def at(self, index: Tensor | slice) -> Rows:
        """Return some of the rows."""
        modalities = {name: values[index] for name, values in self.modalities.items()}
        return Rows(self.x[index], modalities, self.margin[index], self.y[index], self.weight[index])

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device."""
        modalities = {name: values.to(device) for name, values in self.modalities.items()}
        x, margin, y, weight = (t.to(device) for t in (self.x, self.margin, self.y, self.weight))
        return Rows(x, modalities, margin, y, weight)

    def chunks(self, size: int) -> Iterator[Rows]:
        """Return consecutive parts of at most ``size`` rows."""
        for start in range(0, len(self.x), size):
            yield self.at(slice(start, start + size))


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train; the names are those of `NetworkRate`."""

    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    patience: int
    mixed_precision: bool


@dataclass(frozen=True, slots=True)
class Training:
    """What training found: the epoch whose weights the network has now, and the curve."""

    best_epoch: int
    curve: list[EpochRecord]


def train(network: AdPredictorNN, rows: Rows, held: Rows | None, settings: TrainingSettings) -> Training:
    """Train the network in place, on the device where it and the rows are; torch's global generator is drawn from.

    With ``held`` rows the weights of the epoch with the smallest loss on them are restored, those before training
    included; without, the last epoch's stay.
    """
    sample = rows.at(torch.randperm(len(rows.x), device=rows.x.device)[:_CURVE_ROWS])
    curve = [EpochRecord(0, log_loss(network, sample), held and log_loss(network, held), network.dropout_rate())]
    best_epoch, best_state = 0, copy.deepcopy(network.state_dict())
    steps = max(1, math.ceil(len(rows.x) / settings.batch_size))
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, settings.epochs * steps))
    for epoch in range(1, (settings.epochs if len(rows.x) > 1 else 0) + 1):
        network.set_progress((epoch - 1) / settings.epochs)
        for batch in _batches(rows, steps):
            _step(network, batch, optimizer, mixed=settings.mixed_precision)
            scheduler.step()
        train_loss, held_loss = log_loss(network, sample), held and log_loss(network, held)
        if held_loss is not None:
            start = curve[0]
            assert start.validation is not None  # noqa: S101 - there are held rows
            network.update_dropout(generalisation_gap(start.train - train_loss, start.validation - held_loss))
        curve.append(EpochRecord(epoch, train_loss, held_loss, network.dropout_rate()))
        if held_loss is None or held_loss < _validation(curve[best_epoch]):
            best_epoch, best_state = epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return Training(best_epoch, curve)


@torch.no_grad()
def log_loss(network: AdPredictorNN, rows: Rows) -> float:
    """Log-loss per impression in evaluation mode, in float32; NaN without impressions."""
    network.eval()
    total, weight = 0.0, 0.0
    for part in rows.chunks(_CURVE_ROWS):
        losses = _losses(network(part.x, part.modalities, part.margin), part.y).double()
        total += float((part.weight.double() * losses).sum())
        weight += float(part.weight.double().sum())
    return total / weight if weight > 0 else math.nan


def input_slopes(network: AdPredictorNN, rows: Rows) -> Tensor:
    """Mean absolute slope of the log-odds by input column, shape (input_dim,), over at most 8,192 rows."""
    network.eval()
    some = rows.at(slice(0, _CURVE_ROWS))
    x = some.x.detach().clone().requires_grad_()
    (slopes,) = torch.autograd.grad(network(x, some.modalities).sum(), x)
    weight = some.weight / some.weight.sum()
    return (slopes.abs() * weight[:, None]).sum(0)


def _validation(record: EpochRecord) -> float:
    return math.inf if record.validation is None else record.validation


def _batches(rows: Rows, steps: int) -> Iterator[Rows]:
    # Parts of even size: the batch normalisation cannot learn from a last part of one row.
    for index in torch.tensor_split(torch.randperm(len(rows.x), device=rows.x.device), steps):
        yield rows.at(index)


def _step(network: AdPredictorNN, batch: Rows, optimizer: torch.optim.Optimizer, *, mixed: bool) -> None:
    network.train()
    device = batch.x.device.type
    mixed = mixed and device == "cuda" and torch.cuda.is_bf16_supported()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=mixed):
        added = network(batch.x, batch.modalities)
    losses = _losses(batch.margin + added.float(), batch.y)
    loss = (batch.weight * losses).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), _MAX_GRADIENT_NORM)
    optimizer.step()


def _losses(margin: Tensor, y: Tensor) -> Tensor:
    return functional.softplus(margin) - y * margin
