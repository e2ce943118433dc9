"""Measurements of accuracy (`experiments`), of speed and memory (`speed`) and of copy detection."""
