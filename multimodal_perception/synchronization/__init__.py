"""Readings of several sensors combined into frames by time stamp."""
