"""Attention: between features as if tokens were formed, between modalities with missing ones masked."""

import math

import pytest
import torch

from within_ml.errors import InputError, NotFittedError
from within_ml.models.layers import CrossModalAttention, FeatureAttention


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class TestFeatureAttention:
    def test_it_is_the_attention_of_tokens_that_are_never_formed(self):
        layer, x = FeatureAttention(6, 2, 8), torch.randn(5, 6)
        summary, weights = layer(x)

        tokens = x[:, :, None] * layer.weight + layer.bias
        key, value = ((tokens @ m).reshape(5, 6, 2, 4).transpose(1, 2) for m in (layer.key, layer.value))
        query = layer.query(x).reshape(5, 2, 1, 4)
        direct = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        asked = (query @ key.transpose(2, 3) / math.sqrt(4)).softmax(-1)[:, :, 0]
        assert torch.allclose(summary, layer.out(direct.flatten(1)), atol=1e-5)
        assert torch.allclose(weights, asked, atol=1e-6)

    def test_heads_must_fit(self):
        with pytest.raises(InputError, match="multiple of attention_heads, however: 8, 3"):
            FeatureAttention(2, 3, 8)


class TestCrossModalAttention:
    def fuse(self, **options):
        return CrossModalAttention({"text": 3, "image": 2, "video": 4}, 2, 8, **options).eval()

    def rows(self, n=6):
        return {"text": torch.randn(n, 3), "image": torch.randn(n, 2), "video": torch.randn(n, 4)}

    def test_a_missing_modality_changes_nothing_however_it_is_missing(self):
        fuse, rows = self.fuse(), self.rows()
        absent = fuse({"text": rows["text"], "image": rows["image"]})
        empty = fuse({**rows, "video": torch.full((6, 4), torch.nan)})
        holed = rows["video"].clone()
        holed[:, 1] = torch.nan

        assert torch.equal(absent, empty)
        assert torch.equal(absent, fuse({**rows, "video": holed}))
        assert not torch.allclose(absent, fuse(rows))

    def test_each_row_is_masked_by_itself(self):
        fuse, rows = self.fuse(), self.rows()
        whole, text = fuse(rows), fuse({"text": rows["text"]})
        rows["image"][0] = rows["video"][0] = torch.nan
        mixed = fuse(rows)

        assert torch.allclose(mixed[0], text[0], atol=1e-6)
        assert torch.allclose(mixed[1:], whole[1:], atol=1e-6)

    def test_attention_goes_to_other_modalities_that_are_there(self):
        fuse, rows = self.fuse(), self.rows()
        rows["image"][2] = torch.nan
        fuse(rows)
        weights = fuse.get_attention_weights()

        assert weights.shape == (6, 2, 3, 3)
        assert torch.allclose(weights.sum(-1), torch.ones(6, 2, 3))
        assert (weights.diagonal(dim1=2, dim2=3) == 0).all()
        assert (weights[2, :, :, 1] == 0).all()

    def test_rows_without_any_modality_get_the_learned_vector(self):
        fuse = self.fuse()
        fuse.nothing.data.fill_(0.5)
        assert torch.equal(fuse({"text": torch.full((2, 3), torch.nan)}), torch.full((2, 8), 0.5))

    def test_gradients_stay_finite_with_missing_rows(self):
        fuse, rows = self.fuse().train(), self.rows()
        rows["image"][:3], rows["text"][:2], rows["video"][:2] = torch.nan, torch.nan, torch.nan
        fuse(rows).square().sum().backward()

        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in fuse.parameters())
        assert fuse.log_weights.grad.abs().sum() > 0
        assert sum(fuse.modality_weights.values()) == pytest.approx(1)

    def test_misuse_is_refused(self):
        fuse = self.fuse()
        with pytest.raises(NotFittedError):
            fuse.get_attention_weights()
        with pytest.raises(InputError, match="'sound'"):
            fuse({"sound": torch.ones(2, 3)})
        with pytest.raises(InputError, match=r"\(n, 3\), however: \(2, 4\)"):
            fuse.encode_modality("text", torch.ones(2, 4))
        with pytest.raises(InputError, match="at least one"):
            fuse({})
        with pytest.raises(InputError, match="rows"):
            fuse({"text": torch.ones(2, 3), "image": torch.ones(3, 2)})
        with pytest.raises(InputError, match="modality_dims"):
            CrossModalAttention({})
