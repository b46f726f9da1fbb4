"""The proving ground: streets made in code, sensors as physics has them, and perfect ground truth."""
