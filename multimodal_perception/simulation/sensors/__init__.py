"""Models of cameras, LiDARs, thermal cameras and ultrasonic sensors, of weather and of sensor faults."""
