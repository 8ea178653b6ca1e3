"""The model card of a run: `card.md`, made of what lies in the run directory."""
