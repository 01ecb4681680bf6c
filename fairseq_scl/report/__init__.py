"""Tables and figures from records; nothing here trains or selects."""
