"""Copy detection: is a synthetic image a copy of a training image?"""
