"""The gate's comment on a pull request: ``python -m lenet.gate.comment`` in a workflow.

It runs with the rights of the base branch and reads what the pull request's code wrote. So it needs the standard
library alone, and nothing is installed before it. `artefact` reads the data and refuses what is not as it should be.
`markdown` writes the comment. `github` talks to GitHub.
"""
