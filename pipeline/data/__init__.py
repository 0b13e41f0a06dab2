"""Images: where they come from, and how they are packed, read and augmented."""
