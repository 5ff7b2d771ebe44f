"""Substitutes for what an image registry or a release site would have delivered; see the README one folder up."""
