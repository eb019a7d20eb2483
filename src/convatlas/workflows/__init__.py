"""Whole trainings, one file for each task: data, network and recipe are put together, and a run is left."""
