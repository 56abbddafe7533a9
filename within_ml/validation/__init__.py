"""Judges of predictions: evaluation, baselines, promotion gate.

They take arrays, frames or anything with ``predict``; no model is imported here.
"""
