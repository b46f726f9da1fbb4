"""`import`: a module for each published checkpoint format that can be converted."""
