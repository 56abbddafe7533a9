"""How long a group's deviation lasts, where it does, where it does not and where nobody can tell."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from within_ml.ad_score.outcomes import Outcomes
from within_ml.ad_score.persistence import persistence
from within_ml.ad_score.terms import HIERARCHY


def outcomes(*, lasting_account=0.0, passing_ad=0.0, n_weeks=12, accounts=16, ads=12, seed=0):
    """Ads of a week each row: accounts keep their deviation, those of ads are drawn anew every three weeks."""
    rng = np.random.default_rng(seed)
    grid = pd.MultiIndex.from_product([range(n_weeks), range(accounts), range(ads)], names=["week", "account", "ad"])
    rows = grid.to_frame(index=False)
    account = rng.normal(0, 1, accounts)[rows["account"]] * lasting_account
    phases = rng.normal(0, 1, (accounts, ads, n_weeks // 3 + 1)) * passing_ad
    ad = phases[rows["account"], rows["ad"], rows["week"] // 3]
    w = np.full(len(rows), 20_000.0)
    y = rng.binomial(w.astype(int), expit(logit(0.02) + account + ad)) / w
    groups = pd.DataFrame(
        {
            "account": rows["account"].astype(str),
            "campaign_id": (rows["ad"] // 4).astype(str),
            "ad_group_id": (rows["ad"] // 2).astype(str),
            "ad_id": rows["ad"].astype(str),
        }
    )
    day = np.datetime64("2024-01-01") + 7 * rows["week"].to_numpy()
    return Outcomes(day, groups, np.full(len(rows), logit(0.02)), y, w, w, w)


def test_what_lasts_is_kept():
    shares = persistence(outcomes(lasting_account=0.4))

    assert shares.shape == (len(HIERARCHY),)
    assert shares[0] > 0.85


def test_what_passes_is_dropped():
    shares = persistence(outcomes(passing_ad=0.3))

    assert shares[3] < 0.3


def test_both_at_once_are_told_apart():
    shares = persistence(outcomes(lasting_account=0.4, passing_ad=0.3))

    assert shares[0] > 0.8
    assert shares[3] < 0.3


@pytest.mark.parametrize("weeks", [1, 3])
def test_a_short_history_cannot_tell(weeks):
    assert persistence(outcomes(lasting_account=0.4, n_weeks=weeks)).tolist() == [0.0] * 4


def test_groups_that_are_always_new_have_nothing_to_keep():
    some = outcomes()
    some.groups["account"] = np.arange(len(some)).astype(str)

    assert persistence(some).tolist() == [0.0] * 4
