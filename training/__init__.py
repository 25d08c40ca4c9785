"""Training of flair-small, in the order data flow; `python -m training.train --help` is the one command.

trunk                  EfficientNet-Lite0's package -> our image tower's trunk and classifier
features               photos -> the frozen trunk's features, in files
minilm, wordnet, texts the teacher of texts, WordNet, a bank of texts -> text_tower, which learns the space
labels, examples       what is known of each photo -> texts and which pairs are right
losses, head, pool     the global head, then the text-conditioned pool, over the features
train                  all of it, step by step, into one file
"""
