"""Image preprocessing: resizing, thermal normalization, alignment, image quality."""
