"""How far the calibration between sensors has drifted, told from what they see."""
