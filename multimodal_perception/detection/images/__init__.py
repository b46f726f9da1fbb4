"""Object detection in images, and projection of 2D boxes onto the ground."""
