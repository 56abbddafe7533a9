"""Estimators that products are composed of; each module is one family of models. No product, no judgement of one."""
