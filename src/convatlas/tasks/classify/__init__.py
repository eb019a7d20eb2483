"""Images that have one class each; ``metrics`` needs no torch."""
