"""Anomalies: what changed in an account's or any series' figures, how sure that is, and why."""
