"""Training of the sensors' opinions about the boxes of a finished BEV fusion detector."""
