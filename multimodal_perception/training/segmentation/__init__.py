"""Training of camera and thermal segmentation."""
