"""The extractors that ship with Spanhook, one module each; found through entry points like anyone's."""
