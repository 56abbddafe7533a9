"""What WITHIN's speed and accuracy are, measured beside what a user would write instead; results in `results/`."""
