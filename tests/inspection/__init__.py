"""What the inspector says, held to independent sources."""
