"""The harnesses are programs; tests/test_hostile.py runs them over their seeds."""

collect_ignore_glob = ["*.py"]
