"""The extractor of text, image and tabular features: what it finds, what it promises, what it refuses."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit, logit
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import f_regression
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import within_ml
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.features.encoders import TfidfEncoder
from within_ml.features.image_network import SIDE, ImageEvidence, ImageNetwork
from within_ml.features.images import IMAGE_FEATURES
from within_ml.features.multimodal import ExtractedFeatures, MultiModalFeatureExtractor
from within_ml.features.selection import f_scores, mutual_information

N_IMAGES = 120


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Images with a bar through the middle, lying or standing: what no statistic of the whole tells."""
    folder = tmp_path_factory.mktemp("lake")
    (folder / "images").mkdir()
    rng = np.random.default_rng(5)
    for i in range(N_IMAGES):
        pixels = rng.integers(120, 250, (48, 48, 3)).astype(np.uint8)
        pixels[20:28] = rng.integers(0, 60, 3)
        pixels = pixels if i % 2 else np.swapaxes(pixels, 0, 1)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    return folder


def ads(n: int = 600, seed: int = 0):
    """Ads whose rate depends on a word, the image's shape and a number, each by about 0.4 on the logit scale."""
    rng = np.random.default_rng(seed)
    good, image, number = rng.random(n) < 0.5, rng.integers(0, N_IMAGES, n), rng.normal(size=n)
    X = pd.DataFrame(
        {
            "date": pd.Timestamp("2024-01-01"),
            "platform": rng.choice(["meta", "google"], n),
            "account_id": rng.choice(["a", "b"], n),
            "ad_id": [str(i) for i in range(n)],
            "headline": [
                f"{'free' if g else 'dull'} {w} today"
                for g, w in zip(good, rng.choice(["shoes", "hats", "bags"], n), strict=True)
            ],
            "body": [None if i % 7 == 0 else "Buy it now." for i in range(n)],
            "image_path": [f"images/{i}.png" for i in image],
            "number": number,
            "noise": rng.normal(size=n),
            "empty": np.nan,
            "label_clicks": 1,
        }
    )
    w = rng.integers(2000, 6000, n).astype(float)
    p = expit(-3.5 + 0.4 * good + 0.4 * (image % 2) + 0.4 * number)
    return X, rng.binomial(w.astype(int), p) / w, w


@pytest.fixture(scope="module")
def fitted(root) -> MultiModalFeatureExtractor:
    X, y, w = ads()
    return MultiModalFeatureExtractor(output_dim=24).fit(X, y, w, images_root=root)


class TestWhatItFinds:
    def test_the_most_telling_columns_come_first(self, fitted):
        assert fitted.names_["tabular"][0] == "number"
        assert fitted.names_["image"][0] == "image_network"
        assert not {"label_clicks", "empty", "ad_id"} & set(fitted.names_["tabular"])

    def test_a_linear_model_on_it_has_all_three_effects(self, fitted):
        X, _, _ = ads(seed=1)
        new = fitted.extract_features(X)
        good, shape = X["headline"].str.startswith("free"), X["image_path"].str.extract(r"(\d+)")[0].astype(int) % 2
        assert np.abs(np.corrcoef(new.text[:, 0], good)[0, 1]) > 0.9
        assert np.corrcoef(new.image[:, 0], shape)[0, 1] > 0.8
        assert np.abs(np.corrcoef(new.tabular[:, 0], X["number"])[0, 1]) > 0.9

    def test_the_record_says_what_is_there(self, fitted):
        X, _, _ = ads(20)
        X.loc[3, ["headline", "body"]] = None
        X.loc[4, "image_path"] = None
        X.loc[5, "image_path"] = "../../etc/passwd"
        found = fitted.extract_features(X)
        assert isinstance(found, ExtractedFeatures)
        assert np.flatnonzero(~found.has_text).tolist() == [3]
        assert np.flatnonzero(~found.has_image).tolist() == [4, 5]
        assert (found.text[3] == 0).all()
        assert (found.image[4:6] == 0).all()
        assert found.concatenated.shape == (20, 24)
        assert {k: len(v) for k, v in found.names.items()} == {
            "text": found.text.shape[1], "image": found.image.shape[1], "tabular": found.tabular.shape[1],
        }  # fmt: skip

    def test_training_columns_are_scaled(self, root):
        X, y, w = ads()
        columns = MultiModalFeatureExtractor(output_dim=24).fit_transform(X, y, w, images_root=root)
        used = columns[:, columns.any(axis=0)]
        assert np.average(used, axis=0, weights=w) == pytest.approx(0, abs=0.02)
        assert np.average(used**2, axis=0, weights=w) == pytest.approx(1, abs=0.1)

    def test_training_scores_are_out_of_fold(self, root):
        """Pure noise: a network that has seen an image would know its residual."""
        X, _, w = ads()
        rng = np.random.default_rng(9)
        noise = rng.normal(0, 0.5, N_IMAGES)[X["image_path"].str.extract(r"(\d+)")[0].astype(int)]
        y = expit(-3 + noise)
        extractor = MultiModalFeatureExtractor(output_dim=12)
        columns = pd.DataFrame(
            extractor.fit_transform(X, y, w, images_root=root), columns=extractor.get_feature_names_out()
        )
        if "image_network" in columns:
            assert np.abs(np.corrcoef(columns["image_network"], noise)[0, 1]) < 0.35

    def test_each_modality_alone(self, fitted, root):
        X, _, _ = ads(12)
        whole = fitted.extract_features(X)
        texts = [h if b is None or pd.isna(b) else f"{h}\n{b}" for h, b in zip(X["headline"], X["body"], strict=True)]
        pixels = [np.asarray(Image.open(root / path)) for path in X["image_path"]]
        assert np.array_equal(fitted.process_text(texts), whole.text)
        assert np.array_equal(fitted.process_image(X["image_path"].tolist()), whole.image)
        assert np.array_equal(fitted.process_image(pixels), whole.image)
        assert np.array_equal(fitted.process_image([root / path for path in X["image_path"]]), whole.image)
        assert np.array_equal(fitted.process_tabular(X), whole.tabular)

    def test_statistics_in_the_frame_stand_in_for_files(self):
        X, y, w = ads()
        rng = np.random.default_rng(0)
        X = X.assign(**{f.name: rng.normal(size=len(X)) for f in IMAGE_FEATURES}).drop(columns="image_path")
        y = expit(logit(np.clip(y, 1e-4, 1)) + 0.5 * X["image_warmth"])
        found = MultiModalFeatureExtractor(output_dim=12).fit(X, y, w)
        assert found.names_["image"][0] == "image_warmth"
        assert found.extract_features(X).has_image.all()

    def test_the_columns_are_shared_out(self, root):
        X, y, w = ads(200)
        few = MultiModalFeatureExtractor(output_dim=5, max_features={"tabular": 1}).fit(X, y, w, images_root=root)
        assert {name: len(kept) for name, kept in few.names_.items()} == {"text": 2, "image": 2, "tabular": 1}
        wide = MultiModalFeatureExtractor(output_dim=300).fit(X, y, w, images_root=root)
        assert wide.transform(X).shape == (200, 300)
        assert list(wide.get_feature_names_out()[-1:]) == [f"unused_{300 - 1 - sum(map(len, wide.names_.values()))}"]


class TestEncoders:
    def test_components_are_those_of_a_singular_value_decomposition(self):
        texts = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("shoes", "hats", "bags", "coats")]
        encoder = TfidfEncoder.fit(texts, n_components=3, random_state=0)
        matrix = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts).toarray()
        _, _, v = np.linalg.svd(matrix, full_matrices=False)
        ours = encoder.components
        assert ours @ ours.T == pytest.approx(np.eye(3), abs=1e-6)
        assert np.linalg.norm(matrix @ ours.T) == pytest.approx(np.linalg.norm(matrix @ v[:3].T), rel=1e-6)
        assert (np.take_along_axis(ours, np.abs(ours).argmax(1)[:, None], 1) > 0).all()

    @pytest.mark.parametrize("texts", [[], [""], ["!!!", "?"], ["a b c"], ["one"], ["the same", "the same"]])
    def test_poor_texts_are_encoded(self, texts):
        encoder = TfidfEncoder.fit(texts, n_components=4, random_state=0)
        assert np.isfinite(encoder.encode(["new text", "", *texts])).all()
        assert len(encoder.names) == encoder.encode(["x"]).shape[1]

    def test_f_scores_are_scikit_learns_where_weights_are_equal(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(200, 4)), rng.random(200)
        assert f_scores(X, y, np.ones(200)) == pytest.approx(f_regression(X, y)[0], rel=1e-8)

    def test_mutual_information_is_scikit_learns_on_the_rows_written_out(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 5, 300).astype(float)
        clicks = (rng.random(300) < 0.1 + 0.15 * x).astype(float)
        w = rng.integers(1, 4, 300)
        told = mutual_info_score(np.repeat(x, w), np.repeat(clicks, w))
        assert mutual_information(x[:, None], clicks, w.astype(float))[0] == pytest.approx(told, rel=1e-6)


class TestNetwork:
    def sample(self, n=160, seed=0):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(100, 156, (n, SIDE, SIDE, 3)).astype(np.uint8)
        wide = rng.random(n) < 0.5
        for i in range(n):
            pixels[i, 28:36, :] = 20 if wide[i] else pixels[i, 28:36, :]
            pixels[i, :, 28:36] = 20 if not wide[i] else pixels[i, :, 28:36]
        return pixels, wide

    def test_it_finds_what_no_colour_tells(self):
        pixels, wide = self.sample()
        noise = np.random.default_rng(1).normal(0, 0.1, len(wide))
        network = ImageNetwork(epochs=15).fit(
            pixels, ImageEvidence(np.where(wide, 0.2, -0.2) + noise, np.full(len(wide), 50.0))
        )
        new, truth = self.sample(60, seed=2)
        score = network.predict(new)
        assert score[truth].min() > score[~truth].max()
        assert score[truth].mean() - score[~truth].mean() == pytest.approx(0.4, abs=0.12)

    def test_noise_is_nothing(self):
        pixels, wide = self.sample(80)
        residual = np.random.default_rng(3).normal(0, 0.3, len(wide))
        network = ImageNetwork(epochs=6).fit(pixels, ImageEvidence(residual, np.full(len(wide), 30.0)))
        assert np.abs(network.predict(self.sample(20, 4)[0])).max() < 0.1

    def test_the_evidence_of_rows_is_their_sum(self):
        p = np.full(4, 0.1)
        found = ImageEvidence.from_rows(
            np.array([0, 0, 1, -1]), 3, np.array([0.2, 0.1, 0.05, 1.0]), p, np.array([100.0, 300, 200, 9]), between=0.0
        )
        # 10 clicks more than 40 expected, variance 400 · 0.09; 10 fewer of 200 · 0.09; no row.
        assert found.residual == pytest.approx([10 / 36, -10 / 18, 0])
        assert found.precision == pytest.approx([36, 18, 0])

    def test_torchs_own_random_numbers_go_on(self):
        import torch

        pixels, wide = self.sample(16)
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        ImageNetwork(epochs=1, folds=2).fit(pixels, ImageEvidence(wide * 1.0, np.ones(16)))
        assert torch.equal(torch.rand(3), expected)


class TestPromises:
    def test_inputs_are_left_as_they_were(self, root):
        X, y, w = ads(150)
        before = X.copy(deep=True), y.copy(), w.copy()
        MultiModalFeatureExtractor(output_dim=8).fit(X, y, w, images_root=root).transform(X)
        pd.testing.assert_frame_equal(X, before[0])
        assert np.array_equal(y, before[1])
        assert np.array_equal(w, before[2])

    def test_the_order_of_columns_is_irrelevant(self, fitted):
        X, _, _ = ads(40)
        assert np.array_equal(fitted.transform(X[X.columns[::-1]]), fitted.transform(X))

    def test_rows_do_not_see_each_other(self, fitted):
        X, _, _ = ads(30)
        whole = fitted.transform(X)
        assert fitted.transform(X[:0]).shape == (0, 24)
        assert np.array_equal(np.vstack([fitted.transform(X[i : i + 1]) for i in range(5)]), whole[:5])
        assert fitted.process_image([]).shape[0] == fitted.process_text([]).shape[0] == 0

    def test_unseen_and_missing_values_are_features(self, fitted):
        X, _, _ = ads(10)
        X = X.assign(platform="tiktok", number=np.nan, noise=None, headline=None, body=None, image_path=None)
        found = fitted.extract_features(X)
        assert np.isfinite(found.concatenated).all()
        assert not found.has_text.any()
        assert not found.has_image.any()

    def test_a_seed_gives_the_same_features(self, fitted, root):
        X, y, w = ads()
        again = MultiModalFeatureExtractor(output_dim=24).fit(X, y, w, images_root=root)
        assert np.array_equal(again.transform(X), fitted.transform(X))

    def test_a_fresh_process_gives_the_same_bits(self, fitted, tmp_path):
        X, _, _ = ads(50, seed=3)
        X.to_parquet(tmp_path / "rows.parquet")
        (tmp_path / "model").mkdir()
        fitted.save(tmp_path / "model")
        script = f"""
import numpy as np, pandas as pd
from pathlib import Path
from within_ml.features.multimodal import MultiModalFeatureExtractor
extractor = MultiModalFeatureExtractor.load(Path({str(tmp_path / "model")!r}))
np.save({str(tmp_path / "there.npy")!r}, extractor.transform(pd.read_parquet({str(tmp_path / "rows.parquet")!r})))
"""
        where = Path(within_ml.__file__).parents[1]
        subprocess.run([sys.executable, "-c", script], check=True, cwd=where)
        assert np.array_equal(np.load(tmp_path / "there.npy"), fitted.transform(X))
        suffixes = {file.suffix for file in (tmp_path / "model").iterdir()}
        assert suffixes == {".json", ".npz", ".safetensors"}

    def test_images_may_lie_elsewhere_after_loading(self, fitted, root, tmp_path):
        (tmp_path / "model").mkdir()
        fitted.save(tmp_path / "model")
        moved = MultiModalFeatureExtractor.load(tmp_path / "model", images_root=tmp_path)
        assert not moved.extract_features(ads(5)[0]).has_image.any()
        assert (
            MultiModalFeatureExtractor.load(tmp_path / "model", images_root=f"file://{root}")
            .extract_features(ads(5)[0])
            .has_image.all()
        )

    @pytest.mark.parametrize("damage", ["extractor.json", "extractor.npz", "image_network.safetensors"])
    def test_a_damaged_file_is_refused(self, fitted, tmp_path, damage):
        fitted.save(tmp_path)
        (tmp_path / damage).write_bytes(b"{}")
        with pytest.raises(ModelFormatError):
            MultiModalFeatureExtractor.load(tmp_path)

    def test_a_given_preprocessor_is_used_and_not_changed(self, tmp_path):
        X, y, w = ads(60)
        given = StandardScaler()
        extractor = MultiModalFeatureExtractor(tabular_preprocessor=given, output_dim=4).fit(
            X[["number", "noise"]], y, w
        )
        assert not hasattr(given, "mean_")
        assert extractor.names_["tabular"][0] == "number"
        with pytest.raises(InputError, match="save"):
            extractor.save(tmp_path)


class KeptRange:
    """A preprocessor that can save itself."""

    def fit(self, X, y=None):
        self.top = float(X["number"].max())
        return self

    def transform(self, X):
        return X[["number"]].to_numpy(float) / self.top

    def save(self, folder):
        (folder / "range.json").write_text(json.dumps(self.top))

    def load(self, folder):
        self.top = json.loads((folder / "range.json").read_text())
        return self


def test_a_preprocessor_of_ones_own_is_saved(tmp_path):
    X, y, w = ads(60)
    extractor = MultiModalFeatureExtractor(tabular_preprocessor=KeptRange(), output_dim=6).fit(X, y, w)
    extractor.save(tmp_path)
    again = MultiModalFeatureExtractor.load(tmp_path, tabular_preprocessor=KeptRange())
    assert np.array_equal(again.transform(X), extractor.transform(X))
    with pytest.raises(InputError, match="tabular_preprocessor"):
        MultiModalFeatureExtractor.load(tmp_path)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"output_dim": 0}, "output_dim"),
            ({"selection": "best"}, "selection must be one of 'f_test'"),
            ({"max_features": {"sound": 3}}, "max_features"),
            (
                {"text_model": "all-MiniLM-L6-v2"},
                "text_model must be 'tfidf' or a local folder.*Nothing is ever downloaded",
            ),
            ({"image_model": "resnet18"}, "image_model must be 'statistics' or a local folder"),
        ],
    )
    def test_what_is_no_parameter(self, options, message):
        X, y, w = ads(20)
        with pytest.raises(InputError, match=message):
            MultiModalFeatureExtractor(**options).fit(X, y, w)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"y": [0.1] * 5}, "one rate for each of the 20"),
            ({"y": [2.0] * 20}, r"rates in \[0, 1\]"),
            ({"y": ["a"] * 20}, r"rates in \[0, 1\]"),
            ({"sample_weight": [0.0] * 20}, "sample_weight"),
            ({"sample_weight": [-1.0] * 20}, "(?i)negative"),
            ({"X": ads(20)[0].assign(number=np.inf)}, "infinite"),
            ({"X": pd.concat([ads(20)[0]] * 2, axis=1)}, "once"),
            ({"X": ads(20)[0][:0], "y": [], "sample_weight": []}, "rows"),
            ({"X": ads(20)[0].assign(headline=5)}, "string"),
        ],
    )
    def test_what_is_no_evidence(self, change, message):
        X, y, w = ads(20)
        with pytest.raises((InputError, ValueError), match=message):
            MultiModalFeatureExtractor().fit(**{"X": X, "y": y, "sample_weight": w} | change)

    def test_what_was_not_fitted_or_lacks_a_column(self, fitted):
        with pytest.raises(NotFittedError, match="fit or load"):
            MultiModalFeatureExtractor().transform(ads(3)[0])
        for column in ("headline", "number"):
            with pytest.raises(InputError, match=column):
                fitted.transform(ads(3)[0].drop(columns=column))

    def test_an_empty_folder_is_no_model(self, tmp_path):
        X, y, w = ads(20)
        with pytest.raises(InputError, match=r"model\.json"):
            MultiModalFeatureExtractor(image_model=str(tmp_path)).fit(X, y, w)
        with pytest.raises(InputError, match=r"safetensors|within\[embeddings\]"):
            MultiModalFeatureExtractor(text_model=str(tmp_path)).fit(X, y, w)


@pytest.fixture
def no_network(monkeypatch):
    """Any connection is a failure of the test."""

    def refuse(*args):
        raise AssertionError(f"a connection to {args[1:]} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
class TestLocalModels:
    @pytest.fixture
    def sentences(self, tmp_path) -> Path:
        """A tiny BERT with random weights, as sentence-transformers saves it."""
        pytest.importorskip("sentence_transformers")
        import torch
        from sentence_transformers import SentenceTransformer, models
        from transformers import BertConfig, BertModel, BertTokenizerFast

        raw = tmp_path / "raw"
        raw.mkdir()
        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "free",
            "dull",
            "shoes",
            "hats",
            "bags",
            "today",
            "buy",
            "it",
            "now",
            ".",
        ]
        (raw / "vocab.txt").write_text("\n".join(words))
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        BertModel(config).save_pretrained(raw)
        BertTokenizerFast(vocab_file=str(raw / "vocab.txt")).save_pretrained(raw)
        word = models.Transformer(str(raw))
        SentenceTransformer(modules=[word, models.Pooling(word.get_word_embedding_dimension())], device="cpu").save(
            str(tmp_path / "text")
        )
        return tmp_path / "text"

    @pytest.fixture
    def vision(self, tmp_path) -> Path:
        """A ResNet with random weights in the documented form."""
        models = pytest.importorskip("torchvision.models")
        import torch
        from safetensors.torch import save_file

        folder = tmp_path / "vision"
        folder.mkdir()
        torch.manual_seed(0)
        save_file(models.get_model("resnet18", weights=None).state_dict(), folder / "weights.safetensors")
        (folder / "model.json").write_text(json.dumps({"architecture": "resnet18", "input_size": 64}))
        return folder

    def test_embeddings_of_a_sentence_model(self, sentences, tmp_path):
        X, y, w = ads(80)
        extractor = MultiModalFeatureExtractor(text_model=str(sentences), output_dim=12).fit(X, y, w)
        assert any(name.startswith("text_embedding") for name in extractor.names_["text"])
        (tmp_path / "model").mkdir()
        extractor.save(tmp_path / "model")
        again = MultiModalFeatureExtractor.load(tmp_path / "model")
        assert np.array_equal(again.transform(X), extractor.transform(X))
        assert extractor.transform(X[:1]) == pytest.approx(extractor.transform(X)[:1], abs=1e-3)

        (sentences / "another.txt").write_text("changed")
        with pytest.raises(ModelFormatError, match="has changed"):
            MultiModalFeatureExtractor.load(tmp_path / "model")

    def test_embeddings_of_a_vision_model(self, vision, root, tmp_path):
        X, y, w = ads(80)
        extractor = MultiModalFeatureExtractor(image_model=str(vision), output_dim=12).fit(X, y, w, images_root=root)
        assert any(name.startswith("image_embedding") for name in extractor.names_["image"])
        (tmp_path / "model").mkdir()
        extractor.save(tmp_path / "model")
        again = MultiModalFeatureExtractor.load(tmp_path / "model")
        assert np.array_equal(again.transform(X), extractor.transform(X))

    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"architecture": "resnet17"}, "torchvision's architectures"),
            ({"architecture": "resnet34"}, "must fit the architecture"),
            ({"architecture": "resnet18", "mean": [1]}, "three numbers"),
        ],
    )
    def test_a_folder_that_is_not_as_documented(self, vision, told, message):
        (vision / "model.json").write_text(json.dumps(told))
        with pytest.raises(InputError, match=message):
            MultiModalFeatureExtractor(image_model=str(vision)).fit(*ads(20))


class UnitTarget(MultiModalFeatureExtractor):
    """Squeezes any number into [0, 1], since scikit-learn's checks use targets that are no rates."""

    def fit(self, X, y=None, sample_weight=None, *, images_root=None):
        return super().fit(X, _unit(y), sample_weight, images_root=images_root)

    def fit_transform(self, X, y=None, sample_weight=None, *, images_root=None):
        return super().fit_transform(X, _unit(y), sample_weight, images_root=images_root)


def _unit(y):
    if y is None or np.asarray(y).dtype.kind not in "fiuO":
        return y
    numbers = np.asarray(y).astype(float)
    return expit(numbers) if np.isfinite(numbers).all() else numbers


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([UnitTarget(output_dim=8)])
def test_a_matrix_of_numbers_is_transformed_as_scikit_learn_expects(estimator, check):
    check(estimator)
