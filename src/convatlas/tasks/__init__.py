"""What a network's outputs mean: its objective, how it is judged, and what it answers. One folder a task."""
