"""How an image gets its feature, in training, evaluation and prediction alike."""
