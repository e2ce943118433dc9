"""What passes between server and sites."""
