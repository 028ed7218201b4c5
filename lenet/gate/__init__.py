"""The regression gate: base and head measured side by side, and a verdict for each row. No torch here.

`decision` has the rule and its statistics, as pure functions. `checkouts` runs git, `workers` the suite's processes.
`session` puts them together, and `report` shows the outcome. `acceptance` reads the slow-downs that commits accept, and
`comment` writes the outcome on a pull request.
"""
