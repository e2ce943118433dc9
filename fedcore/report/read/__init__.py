"""From a run folder to dataclasses that the report is made from."""
