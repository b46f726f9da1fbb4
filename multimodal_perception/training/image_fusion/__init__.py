"""Training of visible-thermal image fusion."""
