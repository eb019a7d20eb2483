"""Training: recipes, the loop, metrics, health and checkpoints; ``recipe`` and ``metrics`` need no torch."""
