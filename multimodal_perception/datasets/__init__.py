"""Readers of recorded data; each yields SensorFrames."""
