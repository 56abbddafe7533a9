"""Image features on their way to an ad's row: files in the lake, the table of their features, the day's own image."""

import io
import os
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from within_ml.errors import InputError
from within_ml.features import image_content
from within_ml.features.execution import Limits
from within_ml.features.image_content import image_rows, merged_images, missing_images
from within_ml.features.runner import compute_ad_features
from within_ml.lake.images import LakeImages, copy_images, is_safe_path

RED, BLUE = "images/own/red.png", "images/own/blue.png"


def png(colour: str, side: int = 24) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(target, "PNG")
    return target.getvalue()


@pytest.fixture(params=["", "file://"])
def images(tmp_path, request):
    """Image files in a local lake, through Arrow's file system and through that of object stores."""
    (tmp_path / "lake").mkdir()
    found = LakeImages(f"{request.param}{tmp_path / 'lake'}")
    found.write(RED, png("red"))
    found.write(BLUE, png("blue"))
    return found


def table_of(images, shown, known=None) -> pa.Table:
    return merged_images(known, image_rows(images, missing_images(images, pa.array(shown, pa.string()), known)))


class TestFiles:
    def test_what_is_written_is_listed_and_read(self, images):
        large = os.urandom(3_000_000)
        images.write("images/own/large.png", large)
        images.write("images/own/large.png", large)
        listed = images.listing().to_pylist()
        assert [row["image_path"] for row in listed] == [BLUE, "images/own/large.png", RED]
        assert listed[1]["size"] == len(large)
        assert listed[1]["modified_ns"] > 0
        assert images.read("images/own/large.png") == large

    def test_a_lake_without_images_has_none(self, tmp_path):
        assert LakeImages(str(tmp_path / "nowhere")).listing().num_rows == 0
        assert LakeImages(str(tmp_path)).listing().num_rows == 0

    @pytest.mark.parametrize(
        "path", ["../secret.png", "/etc/passwd", "images/../../x.png", "C:\\x.png", "", "a\x00.png"]
    )
    def test_no_path_leads_out_of_the_lake(self, images, tmp_path, path):
        (tmp_path / "secret.png").write_bytes(png("red"))
        assert not is_safe_path(path)
        assert images.read(path) is None

    def test_landed_images_are_copied_once(self, tmp_path):
        landing, images = tmp_path / "landing", LakeImages(str(tmp_path / "lake"))
        folder = landing / "own" / "images"
        (folder / "new").mkdir(parents=True)
        (folder / "red.png").write_bytes(png("red"))
        (folder / "new" / "blue.PNG").write_bytes(png("blue"))
        (folder / "notes.txt").write_text("no image")
        (tmp_path / "outside.png").write_bytes(png("green"))
        (folder / "link.png").symlink_to(tmp_path / "outside.png")
        sources = [(landing / "own", "own"), (landing / "own", "own"), (landing / "other", "other")]
        first, again = (copy_images(images, landing, sources) for _ in range(2))
        assert (first.copied, first.refused) == (2, 1)
        assert (again.copied, again.unchanged) == (0, 2)
        assert images.listing()["image_path"].to_pylist() == ["images/own/new/blue.PNG", RED]

        os.utime(folder / "red.png", ns=(2**62, 2**62))
        assert copy_images(images, landing, sources).copied == 0
        (folder / "red.png").write_bytes(png("yellow", 31))
        assert copy_images(images, landing, sources).copied == 1
        assert images.read(RED) == png("yellow", 31)


class TestTable:
    def test_each_file_is_measured_once(self, images):
        known = table_of(images, [RED, None, RED, "images/none.png"])
        assert known["image_path"].to_pylist() == [RED]
        assert known["image_warmth"].to_pylist() == [1.0]
        assert missing_images(images, pa.array([RED, "images/none.png"]), known).num_rows == 0
        both = table_of(images, [BLUE, RED], known)
        assert sorted(both["image_path"].to_pylist()) == [BLUE, RED]

    def test_a_changed_file_is_measured_again(self, images):
        known = table_of(images, [RED, BLUE])
        images.write(RED, png("lime", 30))
        assert missing_images(images, pa.array([RED, BLUE]), known)["image_path"].to_pylist() == [RED]
        again = {row["image_path"]: row for row in table_of(images, [RED, BLUE], known).to_pylist()}
        assert len(again) == 2
        assert (again[RED]["image_green_mean"], again[BLUE]["image_blue_mean"]) == (1, 1)

    def test_a_new_definition_is_a_new_measurement(self, images, monkeypatch):
        known = table_of(images, [RED])
        monkeypatch.setattr(image_content, "IMAGE_VERSION", "another")
        assert missing_images(images, pa.array([RED]), known).num_rows == 1

    def test_an_unreadable_file_keeps_its_reason_and_is_not_tried_again(self, images):
        images.write(RED, b"no png")
        known = table_of(images, [RED])
        assert known["unreadable"].to_pylist() == ["not a readable image (UnidentifiedImageError)"]
        assert known["image_warmth"].null_count == 1
        assert missing_images(images, pa.array([RED]), known).num_rows == 0


@pytest.fixture(scope="module")
def dressed(lake):
    """The random agency whose ads show red at first and blue in their second version; every third has no image."""
    ads = lake.tables["ads"].to_pandas()
    second = ads.groupby(["platform", "account_id", "ad_id"]).cumcount() > 0
    ads["image_path"] = np.where(second, BLUE, RED)
    ads.loc[ads.ad_id.str.endswith("2"), "image_path"] = None
    return lake.changed(ads=pa.Table.from_pandas(ads, schema=lake.tables["ads"].schema, preserve_index=False))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> pa.Table:
    images = LakeImages(str(tmp_path_factory.mktemp("lake")))
    images.write(RED, png("red"))
    images.write(BLUE, png("blue"))
    return table_of(images, [RED, BLUE])


class TestRows:
    def rows(self, lake, first, last, **options):
        days = compute_ad_features(lake, first=first, last=last, limits=Limits(threads=1), **options)
        return pa.concat_tables(day.table for day in days)

    def test_an_ad_has_the_features_of_its_image_on_the_day(self, dressed, measured, on):
        rows = self.rows(dressed, on(20), on(45), images=measured).to_pandas()
        expected = rows.image_path.map({RED: 1.0, BLUE: -1.0})
        assert {RED, BLUE} <= set(rows.image_path.dropna())
        assert rows.image_path.isna().any()
        assert (rows.image_warmth.fillna(9) == expected.fillna(9)).all()
        ads = dressed.tables["ads"].to_pandas()
        change = ads[ads.image_path == BLUE].iloc[0]
        mine = rows[(rows.ad_id == change.ad_id) & (rows.account_id == change.account_id)]
        later = mine.date >= change.valid_from
        assert (mine[later & mine.image_path.notna()].image_path == BLUE).all()
        assert (mine[~later & mine.image_path.notna()].image_path == RED).all()

    def test_a_range_is_its_nights(self, dressed, measured, on):
        whole = self.rows(dressed, on(30), on(33), images=measured)
        nights = [
            self.rows(dressed, on(30) + timedelta(days=n), on(30) + timedelta(days=n), images=measured)
            for n in range(4)
        ]
        assert pa.concat_tables(nights).combine_chunks().equals(whole.combine_chunks())
        assert whole["image_warmth"].null_count < whole.num_rows

    def test_without_files_all_is_null(self, dressed, on):
        rows = self.rows(dressed, on(30), on(30))
        assert rows["image_warmth"].null_count == rows.num_rows > 0

    def test_an_older_table_is_refused(self, dressed, on):
        with pytest.raises(InputError, match="image_content again"):
            self.rows(dressed, on(30), on(30), images=pa.table({"image_path": ["a"]}))
