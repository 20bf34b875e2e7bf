"""Root of the test suites: ``pytester`` for the kit's own tests, which run pytest inside pytest."""

pytest_plugins = ["pytester"]
