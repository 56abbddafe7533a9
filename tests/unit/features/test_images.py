"""Statistics of images against numbers worked out by hand, and what becomes of files that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from within_ml.errors import InputError
from within_ml.features.images import IMAGE_FEATURES, NO_IMAGE, image_features, open_image

NAMES = [feature.name for feature in IMAGE_FEATURES]


def of(image) -> dict[str, float | None]:
    return image_features([image]).table.to_pylist()[0]


def plain(red: int, green: int, blue: int, side: int = 48) -> np.ndarray:
    return np.full((side, side, 3), (red, green, blue), np.uint8)


def file(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def halves(side: int = 60) -> np.ndarray:
    """Black on the left, white on the right."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, side // 2 :] = 255
    return pixels


class TestColour:
    def test_a_plain_image_is_its_colour(self):
        found = of(plain(255, 128, 0))
        expected = {"image_red_mean": 1, "image_green_mean": 128 / 255, "image_warmth": 1, "image_saturation": 1}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
        # ITU-R 601: 0.299 · 255 + 0.587 · 128, rounded by Pillow to a whole number.
        assert found["image_brightness"] == pytest.approx(151 / 255, abs=0.003)
        flat = ("image_red_sd", "image_contrast", "image_edge_density", "image_colour_entropy", "image_luma_range")
        assert [found[name] for name in flat] == [0] * 5
        assert found["image_symmetry"] == found["image_blank_share"] == 1

    def test_colourfulness_is_that_of_the_paper(self):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
        red, green, blue = np.moveaxis(pixels.astype(float), 2, 0)
        rg, yb = red - green, (red + green) / 2 - blue
        # Section 5: M3 = sigma_rgyb + 0.3 mu_rgyb.
        paper = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        assert of(pixels)["image_colourfulness"] == pytest.approx(paper, rel=1e-6)
        assert of(plain(90, 90, 90))["image_colourfulness"] == 0

    def test_moments_are_numpys(self):
        pixels = np.random.default_rng(1).integers(0, 256, (33, 57, 3)).astype(np.uint8)
        found = of(pixels)
        assert [found[f"image_{c}_sd"] for c in ("red", "green", "blue")] == pytest.approx(
            pixels.std(axis=(0, 1)) / 255, abs=1e-6
        )
        assert found["image_warmth"] == pytest.approx((pixels[..., 0].mean() - pixels[..., 2].mean()) / 255, abs=1e-6)

    def test_two_equal_halves_are_one_bit(self):
        found = of(halves())
        assert found["image_colour_entropy"] == found["image_luma_entropy"] == 1
        assert found["image_contrast"] == 0.5
        assert found["image_luma_range"] == 1


class TestEdgesAndLayout:
    def test_one_vertical_edge(self):
        found = of(halves(60))
        # Two of sixty columns see the step, with a gradient of 255.
        assert found["image_edge_density"] == pytest.approx(2 / 60, abs=1e-6)
        assert found["image_edge_strength"] == pytest.approx(2 / 60 / np.sqrt(2), abs=1e-6)
        assert found["image_edge_entropy"] == 0
        assert (found["image_centre_x"], found["image_centre_y"]) == (0.5, 0.5)
        assert found["image_symmetry"] == -1

    def test_the_centre_is_where_the_thing_is(self):
        pixels = plain(255, 255, 255, 96)
        pixels[60:76, 12:28] = 0
        found = of(pixels)
        assert found["image_centre_x"] == pytest.approx(20 / 96, abs=1e-6)
        assert found["image_centre_y"] == pytest.approx(68 / 96, abs=1e-6)
        assert found["image_middle_share"] == 0
        assert found["image_blank_share"] > 0.8

    def test_lettering_looks_like_text_and_one_shape_does_not(self):
        text, shape = plain(255, 255, 255, 96), plain(255, 255, 255, 96)
        text[:, ::4], text[:, 1::4] = 0, 0
        shape[30:60, 30:60] = 0
        assert of(text)["image_text_likeness"] > 0.9
        assert of(shape)["image_text_likeness"] < 0.05

    def test_a_mirrored_image_is_the_same_but_for_its_side(self):
        pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        found, mirrored = of(pixels), of(pixels[:, ::-1])
        assert mirrored["image_centre_x"] == pytest.approx(1 - found["image_centre_x"], abs=1e-5)
        sided = {"image_centre_x", "image_blank_share", "image_text_likeness", "image_edge_entropy"}
        same = [name for name in NAMES if name not in sided]
        assert [mirrored[n] for n in same] == pytest.approx([found[n] for n in same], abs=1e-5)


class TestFiles:
    def test_a_file_its_bytes_and_its_pixels_are_the_same_image(self, tmp_path):
        picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (50, 80, 3)).astype(np.uint8))
        picture.save(tmp_path / "a.png")
        found = image_features([tmp_path / "a.png", str(tmp_path / "a.png"), file(picture), np.asarray(picture)]).table
        assert len({tuple(row.values()) for row in found.to_pylist()}) == 1
        assert found["image_width"].to_pylist() == [80.0] * 4

    def test_a_large_copy_looks_like_a_small_one(self):
        small = Image.fromarray(np.random.default_rng(4).integers(0, 256, (16, 16, 3)).astype(np.uint8))
        large = [of(file(small.resize((side, side), Image.Resampling.NEAREST))) for side in (128, 512)]
        names = [n for n in NAMES if n not in ("image_width", "image_height")]
        assert [large[0][n] for n in names] == pytest.approx([large[1][n] for n in names], abs=1e-6)

    @pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F"])
    def test_every_mode_is_read(self, mode):
        grey = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1)))
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
        kind = {"CMYK": "JPEG", "F": "TIFF"}.get(mode, "PNG")
        opened = image_features([file(picture, kind)])
        if kind == "TIFF":
            assert opened.reasons == ("not a readable image (UnidentifiedImageError)",)
        else:
            assert opened.table["image_brightness"][0].as_py() == pytest.approx(0.5, abs=0.06)

    def test_what_is_transparent_is_white(self):
        assert of(file(Image.new("RGBA", (20, 20), (0, 0, 0, 0))))["image_brightness"] == 1

    def test_a_turned_photo_is_put_upright(self):
        picture = Image.fromarray(halves(64)).resize((64, 32))
        exif = Image.Exif()
        exif[0x0112] = 6
        turned, upright = of(file(picture, "JPEG", exif=exif, quality=95)), of(file(picture, "JPEG", quality=95))
        assert (turned["image_width"], turned["image_height"]) == (32, 64)
        assert upright["image_symmetry"] < -0.9
        assert turned["image_symmetry"] > 0.9

    def test_a_moving_image_is_its_first_frame(self):
        frames = [Image.new("RGB", (20, 20), colour) for colour in ("white", "black")]
        assert of(file(frames[0], "GIF", save_all=True, append_images=frames[1:]))["image_brightness"] == 1

    def test_what_cannot_be_read_is_null_and_told(self, tmp_path, caplog):
        good = file(Image.new("RGB", (30, 30), "red"))
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        bomb = b"\x89PNG\r\n\x1a\n" + chunk + good[33:]
        images = [None, good, good[:40], b"", b"<svg/>", tmp_path / "none.png", bomb, tmp_path]
        found = image_features(images)
        assert [row is None for row in found.table["image_warmth"].to_pylist()] == [True, False] + [True] * 6
        assert found.reasons[0] == NO_IMAGE
        assert found.reasons[1] is None
        assert found.reasons[5:7] == ("no such file", "more pixels than Pillow's limit")
        assert all(value is None for value in found.table.to_pylist()[6].values())
        assert len(caplog.records) == 1
        assert "6 of 8 images cannot be read" in caplog.text

    def test_no_images_are_an_empty_table(self):
        found = image_features([])
        assert (found.table.num_rows, found.table.column_names, found.reasons) == (0, NAMES, ())

    @pytest.mark.parametrize(
        "wrong", [5, np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), [1]]
    )
    def test_what_is_no_image_at_all_is_refused(self, wrong):
        with pytest.raises(InputError, match="uint8"):
            image_features([wrong])


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_any_pixels_have_finite_values_in_their_ranges(pixels):
    before = pixels.copy()
    found = of(pixels)
    assert np.isfinite(list(found.values())).all()
    assert found == of(pixels)
    assert np.array_equal(pixels, before)
    for feature in IMAGE_FEATURES:
        if feature.unit in ("fraction", "0 to 1"):
            assert 0 <= found[feature.name] <= 1, feature.name
    assert -1 <= found["image_symmetry"] <= 1


def test_a_square_of_a_given_side():
    assert open_image(plain(1, 2, 3, 50), side=64, square=True).image.size == (64, 64)
