"""How depth and its sigma are judged: protocols, baselines, breakdowns, tables and the report."""
