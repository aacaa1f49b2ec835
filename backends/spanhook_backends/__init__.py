"""The backends that ship with Spanhook, one module or package each; found through entry points like anyone's."""
