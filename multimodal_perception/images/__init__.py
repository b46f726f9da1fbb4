"""Image preprocessing: resizing, thermal normalisation, alignment of views, image quality."""
