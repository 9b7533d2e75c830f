"""What is broken in this release; the wheels of the broken ones have another word here."""

FAULT = ""
