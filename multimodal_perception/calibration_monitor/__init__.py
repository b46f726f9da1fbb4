"""Monitoring of the extrinsics between cameras, LiDARs and thermal cameras."""
