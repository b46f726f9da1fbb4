"""`train`: a module for each network that can be trained."""
