"""How far an observed rate may lie from its prediction.

`intervals` holds the estimator, `scale` and `conformal` what it computes with, `coverage` how intervals are judged.
"""
