"""How an image gets its feature: the same way in training, evaluation and prediction."""
