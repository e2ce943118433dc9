"""How good an encoder is: kNN, linear probe and measures of collapse."""
