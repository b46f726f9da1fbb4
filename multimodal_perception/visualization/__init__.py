"""Images of sensor frames and of perception results."""
