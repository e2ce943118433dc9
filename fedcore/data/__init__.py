"""From a manifest, or from simulated hospitals, to images a site can train on."""
