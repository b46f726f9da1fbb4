"""Simulated cameras, LiDARs, thermal cameras and ultrasonic sensors."""
