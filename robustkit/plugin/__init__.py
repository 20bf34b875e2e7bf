"""The pytest plugin's rooms: options, the run over the chosen codecs, fixtures, claims, golden files, the report.

``robustkit.pytest_plugin`` has the hooks. It is loaded in every pytest run of an environment with robustkit, so nothing
heavy is imported before a codec is chosen, and nothing changes in runs that choose none.
"""
