"""Training of flair-small, in the order data flow; `python -m training.train --help` is the one command.

trunk                  reads our image tower's trunk and classifier from EfficientNet-Lite0's package
features               computes the frozen trunk's features of photos and stores them in files
minilm, wordnet, texts make a bank of texts with the teacher's vectors
text_tower             distils the teacher into the text tower
labels, examples       read what is known of each photo, and draw texts and correct pairs from it
losses, head, pool     train the global head, then the text-conditioned pool, on the features
train                  runs all steps and writes one weights file
"""
