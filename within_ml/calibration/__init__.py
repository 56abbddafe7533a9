"""Maps from a model's raw prediction to a probability that can be believed; each module is one family."""
