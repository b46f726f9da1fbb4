"""Simulated world: scenarios, procedurally generated scenery, vehicles, people and their materials."""
