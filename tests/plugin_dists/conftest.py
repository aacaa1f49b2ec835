"""Other people's distributions: `tests/core/test_plugin_distribution.py` installs them and runs their tests."""

collect_ignore_glob = ["*"]
