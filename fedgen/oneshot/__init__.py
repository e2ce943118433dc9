"""One-shot federation: models leave a site once, and are distilled into one."""
