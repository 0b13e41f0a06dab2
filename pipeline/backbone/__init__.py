"""The frozen ViT, and where its weights come from."""
