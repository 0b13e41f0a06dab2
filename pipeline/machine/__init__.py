"""The devices at hand."""
