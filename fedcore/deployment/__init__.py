"""Hospitals on machines of their own: the coordinator's folder and commands, the hospital's, and the engine."""
