"""Training of the segmentation network for camera and thermal images."""
