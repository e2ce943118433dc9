"""The coordinating centre: its folder, its commands, and runs on a deployment."""
