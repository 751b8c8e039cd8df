"""Texts: models that write them, prompts and templates, and the call that generates."""
