"""Training of flair-tiny. data, teacher (what is given) -> batches -> student, losses -> train (the command).

Then evaluate (the figures), release (a run becomes the bundled model), card (its description with the figures).
"""
