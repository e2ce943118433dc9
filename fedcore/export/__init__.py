"""Encoders under the names of MONAI, timm and torchvision; classifiers and segmenters as ONNX."""
