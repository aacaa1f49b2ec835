"""Spanhook plugins: the backend `jsonfile` and the extractor `answer_length`."""
