"""`train recipe`: a file that describes a complete training, from simulated data to a model card."""
