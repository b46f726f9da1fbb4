"""Object detection in point clouds without a network."""
