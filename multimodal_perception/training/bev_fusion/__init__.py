"""Training of the BEV fusion detector: samples of simulated drives, stages, calibration and export."""
