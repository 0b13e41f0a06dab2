"""The finished learner in use: loaded from a folder or from the stages' files, asked about any number of pictures."""
