"""What became of predictions once the outcomes are in."""
