"""Flow control in figures: what one stream's trouble costs the others, and what many streams cost."""
