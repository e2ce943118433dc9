"""DICOM files, series and segmentations to arrays."""
