"""The simulated world: scenarios, scenery, vehicles, people and their materials."""
