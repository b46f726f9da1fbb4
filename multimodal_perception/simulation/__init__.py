"""Simulator: procedurally generated scenes, physically based sensor models and exact ground truth."""
