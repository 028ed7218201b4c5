"""Tables, charts and the report's page."""
