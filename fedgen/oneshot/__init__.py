"""One-shot federation: models leave each site once and are combined, or distilled into one."""
