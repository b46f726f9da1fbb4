"""Object detectors: SensorFrame in, Boxes3D out."""
