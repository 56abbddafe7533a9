"""Features: one definition for training and scoring, as Ibis expressions over lake tables."""
