"""`export`: a module for each kind of network that can be exported."""
