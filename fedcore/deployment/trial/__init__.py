"""`fedpretrain deploy try`: a whole deployment on this machine."""
