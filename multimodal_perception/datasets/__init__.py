"""Readers of recorded and simulated data. Each reader yields SensorFrames."""
