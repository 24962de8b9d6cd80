"""What recommenders that are language models share."""
