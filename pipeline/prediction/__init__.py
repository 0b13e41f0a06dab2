"""Uses the finished learner: loads it from a folder or from the stages' files, and predicts any number of pictures."""
