"""Files of images and masks to arrays, and what their headers say of place and size."""
