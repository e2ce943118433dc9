"""From a manifest, or from phantom hospitals, to images a site can train on."""
