"""The regression gate: base and head measured side by side, and a verdict for each row. No torch here.

`decision` has the rule and its statistics, pure functions; `checkouts` and `workers` run git and the suite's
processes; `session` puts them together; `report` shows what came of it.
"""
