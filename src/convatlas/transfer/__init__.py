"""What a network already knows, used for other images: features, a linear probe, neighbours, and which layers learn."""
