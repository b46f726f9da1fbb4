"""Readings made ready for the stages that share them."""
