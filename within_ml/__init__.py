"""WITHIN: nightly, calibrated advertising scores from a data lake."""
