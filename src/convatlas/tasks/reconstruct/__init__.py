"""Rows of numbers that a network rebuilds, so that rows unlike the others stand out; only ``task`` needs torch."""
