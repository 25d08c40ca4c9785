"""Training of flair-tiny: data (photos, crops, mosaics) -> teacher (targets) -> train -> evaluate -> card."""
