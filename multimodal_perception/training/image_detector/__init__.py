"""Training of the image detector on camera and thermal images."""
