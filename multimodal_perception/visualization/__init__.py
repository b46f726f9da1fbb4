"""Pictures of frames and results."""
