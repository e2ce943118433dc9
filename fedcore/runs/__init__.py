"""The folder of a run: what was asked, where it ran, its logs, and the models that it left."""
