"""Point cloud preprocessing: deskewing, ground segmentation, rain and fog filter, intensity."""
