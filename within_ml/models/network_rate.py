"""The network for rates as an estimator: scaling, training with early stopping out of time, saving.

What the network is made of stands in `ad_nn`; which columns and modalities it gets, is the caller's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from torch import Tensor

from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.estimators import require_fitted
from within_ml.models.ad_nn import AdPredictorNN
from within_ml.models.feature_scaling import FeatureScaling, checked_vectors, scaled_vectors, vector_scaling
from within_ml.models.network_training import EpochRecord, Rows, TrainingSettings, input_slopes, train
from within_ml.models.path_gradients import path_parts
from within_ml.models.rate_regressor import RateRegressor, logit_of_mean

FloatArray = NDArray[np.float64]
Modalities = Mapping[str, ArrayLike]

logger = logging.getLogger(__name__)

_NETWORK_FILE = "network.safetensors"
_STATE_FILE = "network.json"
_PREDICTED_ROWS = 4096


class NetworkRate(RateRegressor):
    """`AdPredictorNN` fitted to rates: binomial log-loss by impressions, on top of a base margin.

    Parameters
    ----------
    hidden_dims, dropout_rate, use_cross_modal, enable_quantum_noise, attention_heads, attention_dim
        As in `AdPredictorNN`.
    modality_dropout, adaptive_dropout, noise_type, noise_intensity, annealing_schedule
        As in `AdPredictorNN`.
    learning_rate, weight_decay : float
        Of AdamW; the rate of learning falls to zero over the epochs along a cosine.
    epochs : int
        Most passes over the rows.
    batch_size : int
        Most rows of a step.
    patience : int
        Stop when the validation loss has not improved for this many epochs; only with validation rows.
    device : str
        ``auto`` is a GPU when there is one, else the CPU; or a name of torch such as ``cpu``, ``cuda:1``.
    mixed_precision : bool
        Train in bfloat16 where the device is a GPU that has it. Predictions are float64 always.
    random_state : int
        Seed of the initial weights, the order of rows and all noise; torch's global generator is left as it was.

    Attributes
    ----------
    network_ : AdPredictorNN
        In evaluation mode, float64, on the CPU or on the device of training.
    base_logit_ : float
        Log-odds of the mean rate, the starting point where no ``base_margin`` is given.
    training_curve_ : list of EpochRecord
    best_epoch_ : int
        The epoch whose weights are kept; 0 if training made nothing better than the starting point.
    importance_ : array, shape (d,)
        Mean absolute slope of the log-odds by column, over the training rows, on the scale of standard deviations.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> impressions = np.full(2000, 500)
    >>> clicks = rng.binomial(impressions, expit(-3 + 0.8 * X[:, 0] * X[:, 1]))
    >>> model = NetworkRate(epochs=15).fit(X, clicks / impressions, impressions)
    >>> low, high = model.predict([[1.0, -1.0], [1.0, 1.0]])
    >>> bool(low < 0.03 < 0.08 < high)
    True
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's convention: one argument per hyperparameter
        self,
        *,
        hidden_dims: tuple[int, ...] = (64, 32),
        dropout_rate: float = 0.1,
        use_cross_modal: bool = True,
        enable_quantum_noise: bool = False,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        epochs: int = 30,
        batch_size: int = 512,
        patience: int = 5,
        attention_heads: int = 4,
        attention_dim: int = 16,
        modality_dropout: float = 0.1,
        adaptive_dropout: bool = False,
        noise_type: str = "depolarizing",
        noise_intensity: float = 0.1,
        annealing_schedule: str = "cosine",
        device: str = "auto",
        mixed_precision: bool = True,
        random_state: int = 0,
    ) -> None:
        self.hidden_dims = hidden_dims
        self.dropout_rate = dropout_rate
        self.use_cross_modal = use_cross_modal
        self.enable_quantum_noise = enable_quantum_noise
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.attention_heads = attention_heads
        self.attention_dim = attention_dim
        self.modality_dropout = modality_dropout
        self.adaptive_dropout = adaptive_dropout
        self.noise_type = noise_type
        self.noise_intensity = noise_intensity
        self.annealing_schedule = annealing_schedule
        self.device = device
        self.mixed_precision = mixed_precision
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        modalities: Modalities | None = None,
        base_margin: ArrayLike | None = None,
        validation: tuple[Any, ...] | None = None,
    ) -> Self:
        """Fit the network.

        Parameters
        ----------
        X : shape (n, d)
            Numbers; NaN is allowed, infinity is not.
        y : shape (n,)
            Rates in [0, 1].
        sample_weight : shape (n,), optional
            Impressions. Rows without any are left out.
        modalities : mapping of str to array, shape (n, size), optional
            Vectors of text, image or whatever else; a row with NaN is missing.
        base_margin : shape (n,), optional
            Log-odds that the network starts from; then `predict` needs it too.
        validation : tuple (X, y, sample_weight, modalities, base_margin), optional
            Later rows for early stopping; the last three may be None.

        Raises
        ------
        InputError
            If y is outside [0, 1], nothing has weight, or shapes do not fit.
        """
        if y is None:
            raise InputError("NetworkRate requires y to be passed, but the target y is None.")
        self._check_settings()
        frame, y, weight = self._checked(X, y, sample_weight, reset=True)
        if not weight.sum() > 0:
            raise InputError("NetworkRate needs rows with impressions; the sum of sample_weight is zero.")
        self.uses_base_margin_ = base_margin is not None
        self.base_logit_ = logit_of_mean(y, weight)
        margin = self._margin(len(y), base_margin)
        vectors = {str(name): checked_vectors(name, values, len(y)) for name, values in (modalities or {}).items()}
        self.modality_dims_ = {name: values.shape[1] for name, values in vectors.items()}
        shown_rows = np.flatnonzero(weight > 0)
        self.scaling_ = FeatureScaling.fit(frame[shown_rows])
        self.modality_scaling_ = {name: vector_scaling(values[shown_rows]) for name, values in vectors.items()}
        # Weights of about 1, so that the loss of a step, and with it the clipping of gradients, has one scale.
        unit = weight[shown_rows].mean()
        rows = self._rows(frame, vectors, margin, y, weight / unit).at(torch.as_tensor(shown_rows))
        held = None if validation is None else self._validation_rows(validation)
        self._train(rows, held)
        return self

    def predict(
        self,
        X: pd.DataFrame | ArrayLike,
        *,
        modalities: Modalities | None = None,
        base_margin: ArrayLike | None = None,
    ) -> FloatArray:
        """Return rates in (0, 1), shape (n,)."""
        rates: FloatArray = expit(self.predict_margin(X, modalities=modalities, base_margin=base_margin))
        return rates

    def predict_margin(
        self,
        X: pd.DataFrame | ArrayLike,
        *,
        modalities: Modalities | None = None,
        base_margin: ArrayLike | None = None,
    ) -> FloatArray:
        """Return log-odds, shape (n,): the starting point plus what the network adds.

        Modalities that are not handed over count as missing in every row.

        Raises
        ------
        InputError
            If the model was fitted with a base margin and none is given, or a modality is unknown or misshaped.
        """
        require_fitted(self)
        if self.uses_base_margin_ and base_margin is None:
            raise InputError("This model was fitted on top of a base_margin; give predict the one of these rows.")
        frame = self._checked(X, None, None, reset=False)[0]
        margin = self._margin(len(frame), base_margin)
        return margin + self._applied(self.network_, frame, modalities)

    def contributions(
        self, X: pd.DataFrame | ArrayLike, *, modalities: Modalities | None = None
    ) -> tuple[tuple[str, ...], FloatArray, FloatArray]:
        """Return what each column and each modality adds to the log-odds, see `path_gradients`.

        Returns
        -------
        names : tuple of str, length k
            Columns, then modalities.
        values : array, shape (n, k)
        base : array, shape (n,)
            What the network says of the average row; base and values add up to what it says of the row.
        """
        require_fitted(self)
        frame = self._checked(X, None, None, reset=False)[0]
        names = (*self._names(), *self.modality_dims_)
        flagged, d = np.flatnonzero(self.scaling_.flagged), frame.shape[1]

        def parts(x: Tensor, vectors: dict[str, Tensor]) -> Tensor:
            found = path_parts(self.network_, x, vectors)
            columns = found.x[:, :d].clone()
            columns[:, flagged] += found.x[:, d:]
            absent = torch.zeros_like(found.base)
            told = [found.modalities.get(name, absent) for name in self.modality_dims_]
            return torch.column_stack([columns, *told, found.base])

        table = self._applied(parts, frame, modalities, inference=False).reshape(len(frame), len(names) + 1)
        return names, table[:, :-1], table[:, -1]

    def attention_weights(self, X: pd.DataFrame | ArrayLike) -> FloatArray:
        """Return how much each column is looked at, shape (n, heads, d); flags of missing values are left out."""
        require_fitted(self)
        frame = self._checked(X, None, None, reset=False)[0]
        found = self._applied(lambda x, _: self.network_.attention_weights(x), frame, None)
        return found.reshape(len(frame), self.attention_heads, -1)[:, :, : frame.shape[1]]

    def feature_importance(self) -> dict[str, float]:
        """Share of `importance_` by column, in falling order; sums to 1 (or all 0 for an untrained network)."""
        require_fitted(self)
        total = float(self.importance_.sum()) or 1.0
        shares = {name: float(value) / total for name, value in zip(self._names(), self.importance_, strict=True)}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def save(self, folder: Path) -> None:
        """Write weights and settings into an existing folder."""
        require_fitted(self)
        tensors = {f"network.{name}": value.cpu().contiguous() for name, value in self.network_.state_dict().items()}
        scalings = {"scaling": self.scaling_, **{f"modality.{n}": s for n, s in self.modality_scaling_.items()}}
        for name, scaling in scalings.items():
            arrays = scaling.to_arrays().items()
            tensors.update({f"{name}|{key}": torch.as_tensor(np.ascontiguousarray(array)) for key, array in arrays})
        tensors["importance"] = torch.as_tensor(self.importance_)
        safetensors.torch.save_file(tensors, folder / _NETWORK_FILE)
        state = {
            "parameters": self.get_params(deep=False),
            "feature_names": self._names() if hasattr(self, "feature_names_in_") else None,
            "n_features": self.n_features_in_,
            "modality_dims": self.modality_dims_,
            "base_logit": self.base_logit_,
            "uses_base_margin": self.uses_base_margin_,
            "best_epoch": self.best_epoch_,
            "training_curve": [asdict(record) for record in self.training_curve_],
        }
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If a file is missing or is not what `save` wrote.
        """
        try:
            state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
            tensors = safetensors.torch.load_file(folder / _NETWORK_FILE)
            parameters = state["parameters"]
            model = cls(**{**parameters, "hidden_dims": tuple(parameters["hidden_dims"])})
            model._restore(state, tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            raise ModelFormatError(f"{folder} must hold a saved NetworkRate; it does not ({error}).") from error
        return model

    def _restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        def scaling(name: str) -> FeatureScaling:
            start = f"{name}|"
            return FeatureScaling.from_arrays(
                {key.removeprefix(start): value.numpy() for key, value in tensors.items() if key.startswith(start)}
            )

        self.n_features_in_, self.best_epoch_ = int(state["n_features"]), int(state["best_epoch"])
        if state["feature_names"] is not None:
            self.feature_names_in_ = np.array(state["feature_names"], dtype=object)
        self.base_logit_, self.uses_base_margin_ = float(state["base_logit"]), bool(state["uses_base_margin"])
        self.training_curve_ = [EpochRecord(**record) for record in state["training_curve"]]
        self.modality_dims_ = {name: int(size) for name, size in state["modality_dims"].items()}
        self.scaling_ = scaling("scaling")
        self.modality_scaling_ = {name: scaling(f"modality.{name}") for name in self.modality_dims_}
        self.importance_ = tensors["importance"].numpy().astype(np.float64)
        device = self._device()
        with torch.random.fork_rng(devices=[]):
            network = self._network()
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        self.network_ = network.double().eval().to(device)

    def _check_settings(self) -> None:
        for name, low in (("epochs", 0), ("batch_size", 2), ("patience", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name} must be at least {low}, however: {getattr(self, name)}.")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise InputError(
                "learning_rate must be above 0 and weight_decay at least 0, however: "
                f"{self.learning_rate}, {self.weight_decay}."
            )

    def _network(self) -> AdPredictorNN:
        return AdPredictorNN(
            self.scaling_.width,
            self.hidden_dims,
            self.dropout_rate,
            self.enable_quantum_noise,
            self.use_cross_modal,
            modality_dims=self.modality_dims_,
            attention_heads=self.attention_heads,
            attention_dim=self.attention_dim,
            modality_dropout=self.modality_dropout,
            adaptive_dropout=self.adaptive_dropout,
            noise_type=self.noise_type,
            noise_intensity=self.noise_intensity,
            annealing_schedule=self.annealing_schedule,
        )

    def _train(self, rows: Rows, held: Rows | None) -> None:
        device = self._device()
        settings = TrainingSettings(**{field.name: getattr(self, field.name) for field in fields(TrainingSettings)})
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.random_state)
            network = self._network().to(device)
            rows = rows.to(device)
            done = train(network, rows, held and held.to(device), settings)
            slopes = input_slopes(network, rows)
        self.importance_ = slopes.double().cpu().numpy()[: self.n_features_in_]
        self.training_curve_, self.best_epoch_ = done.curve, done.best_epoch
        self.network_ = network.double().eval()
        logger.info("NetworkRate: %d rows, epoch %d of %d kept", len(rows.x), done.best_epoch, len(done.curve) - 1)

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise InputError(f"device must be 'auto' or a device of torch, however: {self.device!r}.") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device must be one that is there, however: {self.device!r}; 'auto' takes what there is.")
        return device

    def _checked_modalities(self, modalities: Modalities | None, rows: int) -> dict[str, FloatArray]:
        vectors = {str(name): checked_vectors(name, values, rows) for name, values in (modalities or {}).items()}
        for name, values in vectors.items():
            if name not in self.modality_dims_:
                raise InputError(f"modalities must be those of fit, {shown(self.modality_dims_)}; {name!r} is none.")
            if values.shape[1] != self.modality_dims_[name]:
                raise InputError(
                    f"Modality {name!r} must have shape ({rows}, {self.modality_dims_[name]}), however: {values.shape}."
                )
        return vectors

    def _validation_rows(self, validation: tuple[Any, ...]) -> Rows:
        if len(validation) != 5:
            raise InputError(
                f"validation must be (X, y, sample_weight, modalities, base_margin), not {len(validation)}."
            )
        X, y, sample_weight, modalities, base_margin = validation
        if (base_margin is not None) != self.uses_base_margin_:
            raise InputError("validation must come with a base_margin exactly if the training rows do.")
        frame, y, weight = self._checked(X, y, sample_weight, reset=False)
        if not weight.sum() > 0:
            raise InputError("validation needs rows with impressions; the sum of its sample_weight is zero.")
        vectors = self._checked_modalities(modalities, len(y))
        return self._rows(frame, vectors, self._margin(len(y), base_margin), y, weight)

    def _inputs(self, frame: FloatArray, vectors: Mapping[str, FloatArray]) -> tuple[Tensor, dict[str, Tensor]]:
        scaled = {
            name: torch.from_numpy(scaled_vectors(self.modality_scaling_[name], values))
            for name, values in vectors.items()
        }
        return torch.from_numpy(self.scaling_.transform(frame)), scaled

    def _rows(
        self,
        frame: FloatArray,
        vectors: Mapping[str, FloatArray],
        margin: FloatArray,
        y: FloatArray,
        weight: FloatArray,
    ) -> Rows:
        x, scaled = self._inputs(frame, vectors)
        columns = (torch.from_numpy(np.array(a, dtype=np.float32)) for a in (margin, y, weight))
        return Rows(x.float(), {name: values.float() for name, values in scaled.items()}, *columns)

    def _applied(
        self,
        function: Callable[[Tensor, dict[str, Tensor]], Tensor],
        frame: FloatArray,
        modalities: Modalities | None,
        *,
        inference: bool = True,
    ) -> FloatArray:
        """Apply a function of scaled features and modalities to all rows, in parts; float64."""
        vectors = self._checked_modalities(modalities, len(frame))
        device = next(self.network_.parameters()).device
        found = []
        with torch.inference_mode(inference):
            for start in range(0, len(frame), _PREDICTED_ROWS):
                part = slice(start, start + _PREDICTED_ROWS)
                x, scaled = self._inputs(frame[part], {name: values[part] for name, values in vectors.items()})
                result = function(x.to(device), {name: values.to(device) for name, values in scaled.items()})
                found.append(result.detach().cpu().numpy())
        return np.concatenate(found) if found else np.empty(0)
