"""Example of a user-defined detector."""
