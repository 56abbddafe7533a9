"""WITHIN."""
