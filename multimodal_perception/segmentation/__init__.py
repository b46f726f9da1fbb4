"""Per-pixel classes of images: visible, thermal, or both."""
