"""Pictures are drawn, small enough for metadata, and leave nothing open."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from within_ml.errors import InputError
from within_ml.explain.contributions import Contributions
from within_ml.explain.plots import summary_plot, waterfall_plot

rng = np.random.default_rng(0)
NAMES = [f"feature {i}" for i in range(20)]
PARTS = Contributions.of(NAMES, rng.normal(size=(5_000, 20)) * np.linspace(0, 1, 20), base=-4.0)
X = pd.DataFrame(rng.normal(size=(5_000, 19)), columns=NAMES[:19]).assign(platform="meta")


@pytest.mark.parametrize("draw", [summary_plot, lambda parts, X: waterfall_plot(parts, X, 7)])
def test_a_picture_is_drawn(draw):
    from matplotlib import pyplot as plt

    picture = draw(PARTS, X)
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    assert min(image.size) > 200
    assert np.asarray(image.convert("L")).std() > 5
    assert len(picture) < 100_000
    assert plt.get_fignums() == []


def test_bad_input():
    with pytest.raises(InputError, match="row must be one of the 5000"):
        waterfall_plot(PARTS, X, 5_000)
    with pytest.raises(InputError, match="must have the 5000 rows"):
        summary_plot(PARTS, X[:3])
